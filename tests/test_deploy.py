"""The one-box deployment: valid compose file, settings that the processes accept, nothing listening to the world."""

import json
import string
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from actors.real import RealSettings
from actors.sim import DemonstrationSettings, FleetSettings
from learner.stage import RlSettings, SftSettings
from protos.settings import from_json
from services.guide import GuideSettings
from twin import tasks

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
ENVIRONMENT = {"ROBOT_HOST": "127.0.0.41"}
SETTINGS = {
    "fleet": FleetSettings,
    "demonstrate": DemonstrationSettings,
    "learner": RlSettings,
    "sft": SftSettings,
    "guide": GuideSettings,
    "robot": RealSettings,
}


def filled(name):
    text = (ROOT / "deploy" / "settings" / f"{name}.json").read_text()
    return json.loads(string.Template(text).substitute(ENVIRONMENT))


def check(path):
    command = [sys.executable, str(ROOT / "scripts" / "check_compose.py"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_compose_file_follows_the_specification():
    result = check(ROOT / "docker-compose.yml")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("services: {a: {imagine: x}}", "'imagine' was unexpected"),
        ("services: {a: {image: x, ports: 80}}", "$.services.a.ports: 80 is not of type"),
        ("services: [", "not YAML"),
    ],
)
def test_a_wrong_compose_file_is_refused_with_its_place(tmp_path, text, words):
    path = tmp_path / "compose.yml"
    path.write_text(text)
    result = check(path)
    assert result.returncode == 1
    assert words in result.stderr
    assert all(line.startswith(f"{path}: ") for line in result.stderr.splitlines())


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_are_accepted_by_their_process(name):
    from_json(SETTINGS[name], filled(name), name)


def test_every_settings_file_is_used_and_every_one_used_is_there():
    words = [word for service in SERVICES.values() for word in service.get("command", [])]
    used = {Path(word).stem for word in words if word.startswith("/tmp/settings/")}
    assert used == {path.stem for path in (ROOT / "deploy" / "settings").glob("*.json")}


def test_the_guide_knows_the_space_of_the_task():
    assert from_json(GuideSettings, filled("guide")).space == tasks.get("pick_and_place").space


def test_the_arm_moves_for_nobody_who_did_not_say_so():
    assert from_json(RealSettings, filled("robot")).armed is False
    assert "--arm" not in SERVICES["robot"]["command"]
    assert SERVICES["robot"]["restart"] == "no"


def test_nothing_is_published_and_everything_shares_one_loopback():
    assert not any("ports" in service for service in SERVICES.values())
    others = {name: service["network_mode"] for name, service in SERVICES.items() if name != "box"}
    assert set(others.values()) == {"service:box"}
    listened = [word for service in SERVICES.values() for word in service.get("command", []) if ":70" in word]
    assert listened == ["127.0.0.1:7070", "127.0.0.1:7071"]


def test_the_modules_started_exist():
    for service in SERVICES.values():
        command = service.get("command", [])
        if command[:2] == ["python", "-m"]:
            assert (ROOT / command[2].replace(".", "/") / "__main__.py").is_file(), command


def test_every_lasting_process_has_a_health_check():
    lasting = {name for name, service in SERVICES.items() if "once" not in service.get("profiles", [])} - {"box"}
    assert lasting == {"valkey", "weights", "guide", "learner", "twins", "robot"}
    assert all(SERVICES[name]["healthcheck"]["test"] for name in lasting)


def test_the_replay_server_keeps_everything_and_its_budgets_fit():
    lines = (ROOT / "deploy" / "valkey" / "valkey.conf").read_text().splitlines()
    options = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    assert options["maxmemory-policy"] == "noeviction"
    assert options["appendonly"] == "yes"
    assert options["appendfsync"] == "everysec"
    assert options["bind"] == "127.0.0.1"
    assert "requirepass" not in options
    budget = filled("fleet")["replay"]["capacity_bytes"]
    assert 4 * budget < int(options["maxmemory"].removesuffix("gb")) * 2**30


def test_the_entrypoint_fills_only_the_settings_that_the_command_names(tmp_path):
    script = (ROOT / "deploy" / "docker" / "entrypoint.sh").read_text()
    local = script.replace("/tmp/settings", str(tmp_path / "filled")).replace('"/settings', f'"{ROOT}/deploy/settings')
    path = tmp_path / "entrypoint.sh"
    path.write_text(local.replace("python -c", f"{sys.executable} -c"))
    command = ["sh", str(path), "cat", str(tmp_path / "filled" / "robot.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=ENVIRONMENT, check=True)
    assert json.loads(done.stdout)["arm"]["host"] == "127.0.0.41"
    assert [one.name for one in (tmp_path / "filled").iterdir()] == ["robot.json"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=30, env={}, check=False)
    assert refused.returncode != 0
    assert "ROBOT_HOST" in refused.stderr


def test_passwords_come_from_files_alone():
    texts = [path.read_text() for path in (ROOT / "deploy").rglob("*.*") if path.suffix in (".json", ".yml", ".conf")]
    assert not any("PASSWORD}" in text for text in [*texts, (ROOT / "docker-compose.yml").read_text()])
    for name in set(SETTINGS) - {"guide"}:
        replay = from_json(SETTINGS[name], filled(name), name).replay
        assert replay.credentials.password == Path("/run/secrets/valkey")
        assert SERVICES[{"fleet": "twins"}.get(name, name)]["secrets"] == ["valkey"]
    monitoring = yaml.safe_load((ROOT / "deploy" / "monitoring.yml").read_text())
    assert monitoring["services"]["metrics"]["secrets"] == ["valkey"]
