"""The words of the `twinrl` script, as a person types them."""

import json
import subprocess
import sys
import types

import pytest

from protos.errors import InputError
from protos.folders import owned
from services.replay import EmbeddedServer
from twinrl import cli
from twinrl.commands import bench, certificates, demo, serve, status


def twinrl(*arguments):
    command = [sys.executable, "-m", "twinrl.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_help_names_every_command_and_loads_none_of_them():
    code = "import sys; from twinrl import cli; sys.argv = ['twinrl', '--help']\ntry: cli.main()\nfinally: "
    code += "assert not {'torch', 'redis', 'grpc', 'tyro', 'numpy'} & set(sys.modules), 'slow imports'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    for name, what in cli.COMMANDS.items():
        assert f"  {name}" in done.stdout
        assert what in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("dmeo",), "twinrl: twinrl dmeo: no such command; nearest is 'demo'"),
        (("serve", "wegihts"), "twinrl: twinrl serve wegihts: no such command; nearest is 'weights'"),
        (("bench", "replya"), "twinrl: twinrl bench replya: no such command; nearest is 'replay'"),
        (("status",), "twinrl: name a run folder, as in runs/demo, or services: --replay, --weights, --guide"),
        (("status", "--replay", "http://h"), "twinrl: replay url 'http://h': begin with one of"),
        (("certificates", "--out", "certs"), "twinrl: --host: name at least one"),
        (("serve", "weights", "--store", "x", "--listen", "0.0.0.0:0"), "twinrl: --listen 0.0.0.0:0"),
    ],
)
def test_a_mistake_is_answered_in_one_line(arguments, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, said = twinrl(*arguments)
    assert code == 2
    assert said.startswith(line), said
    assert said.count("\n") == 1


@pytest.mark.parametrize("main", [serve.main, bench.main])
def test_a_group_shows_its_commands(main, capsys):
    assert main([]) == 0
    assert main(["--help"]) == 0
    assert "replay" in capsys.readouterr().out


@pytest.mark.parametrize("name", serve.SERVICES)
def test_every_service_has_help_under_its_own_name(name):
    code, shown, _ = twinrl("serve", name, "--help")
    assert code == 0
    assert f"twinrl serve {name}" in shown


@pytest.mark.parametrize(
    "named", ["--replay redis://a:1 --replay redis://b:2", "--replay redis://a:1 redis://b:2", "--replay=redis://a:1 "]
)
def test_each_replay_named_is_a_shard(monkeypatch, named):
    runs = []
    monkeypatch.setattr(demo, "run", lambda settings, start: runs.append((settings, start.resume)) or 0)
    assert demo.main([*named.split(), "--seed", "3"]) == 0
    ((settings, resume),) = runs
    assert settings.replay == ("redis://a:1", "redis://b:2")[: named.count("redis")]
    assert (settings.seed, resume) == (3, False)


def test_a_list_of_numbers_is_named_whole(monkeypatch):
    runs = []
    monkeypatch.setattr(demo, "run", lambda settings, start: runs.append(settings) or 0)
    words = "--twin.latency-steps 0 1 --twin.camera-delay-steps 1 --real-rl.regions B --twin.gain 0.9 1.1"
    assert demo.main(words.split()) == 0
    (settings,) = runs
    assert (settings.twin.latency_steps, settings.twin.camera_delay_steps) == ((0, 1), (1,))
    assert (settings.real_rl.regions, settings.twin.gain) == (("B",), (0.9, 1.1))


def test_certificates_are_made_and_the_summary_names_every_file(tmp_path, capsys):
    out = tmp_path / "certs"
    assert certificates.main(["--out", str(out), "--host", "learner.lab", "--host", "10.0.0.3"]) == 0
    said = capsys.readouterr().out
    assert "10.0.0.3, learner.lab" in said
    for path in out.iterdir():
        assert path.name in said or path.name == "authority.pem"


def test_one_host_is_added_renewed_and_taken_back(tmp_path, capsys):
    out = str(tmp_path / "certs")
    users = tmp_path / "certs" / "users.acl"
    certificates.main(["--out", out, "--host", "rl1.lab", "--prefix", "twinrl-a", "--days", "10"])
    before = users.read_text()
    assert certificates.main(["add", "robot-2", "--role", "robot", "--out", out]) == 0
    added = users.read_text()
    assert added != before and "user twinrl-a.robot on #" in added
    certificate = (tmp_path / "certs" / "robot-2" / "certificate.pem").read_bytes()
    assert certificates.main(["renew", "robot-2", "--days", "30", "--out", out]) == 0
    assert (tmp_path / "certs" / "robot-2" / "certificate.pem").read_bytes() != certificate
    assert users.read_text() == added
    capsys.readouterr()
    assert certificates.main(["list", "--out", out]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in shown if "robot" in line] == [
        ["robot", "robot", "10"],
        ["robot-2", "robot", "30"],
    ]
    assert certificates.main(["revoke", "robot-2", "--out", out]) == 0
    assert users.read_text() == before
    assert "users.acl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "robot", "--role", "robot"), "taken; renew or revoke that one"),
        (("add", "x", "--role", "pirate"), "role 'pirate': choose one of admin, learner"),
        (("add", "x", "--role", "robot", "--host", "h"), "only a server's certificate names hosts"),
        (("renew", "nobody"), "there is none in .*there are admin, console"),
        (("revoke", "nobody"), "there is none in"),
    ],
)
def test_what_cannot_be_given_out_or_taken_back_is_named(tmp_path, arguments, words):
    out = str(tmp_path / "certs")
    certificates.main(["--out", out, "--host", "rl1.lab"])
    with pytest.raises(InputError, match=words):
        certificates.main([*arguments, "--out", out])
    with pytest.raises(InputError, match="there is none; `twinrl certificates"):
        certificates.main([*arguments, "--out", str(tmp_path / "nowhere")])


def test_benchmarks_of_an_installed_wheel_are_named_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "CHECKOUT", tmp_path)
    with pytest.raises(InputError, match="clone the repository and run `twinrl bench replay` there"):
        bench.main(["replay"])


def test_a_measurement_is_printed_and_written(tmp_path, monkeypatch, capsys):
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class ReplayBench:
        """Measure."""

        seconds: float = 5.0

    fake = types.SimpleNamespace(ReplayBench=ReplayBench, run=lambda settings: f"| seconds |\n| {settings.seconds} |")
    monkeypatch.setitem(sys.modules, "benchmarks.replay.run", fake)
    out = tmp_path / "deep" / "replay.md"
    assert bench.main(["replay", "--seconds", "0.5", "--out", str(out)]) == 0
    assert capsys.readouterr().out == out.read_text() == "| seconds |\n| 0.5 |\n"


def test_a_cluster_without_a_run_folder_is_shown(tmp_path, capsys):
    with EmbeddedServer(tmp_path / "replay") as server:
        assert status.main(["--replay", server.url, "--weights", "127.0.0.1:1"]) == 0
    shown = capsys.readouterr().out
    assert "Valkey" in shown or "Redis" in shown
    assert "weights service at 127.0.0.1:1" in shown


def test_a_run_that_is_up_shows_its_services_too(tmp_path, capsys):
    import os

    row = {"name": "learner", "pid": os.getpid(), "state": "running"}
    (tmp_path / "processes.json").write_text(json.dumps({"processes": [row]}))
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "twin_rl.json").write_text(json.dumps({"replay": {"urls": ["redis://127.0.0.1:1"]}}))
    with owned(tmp_path, "twinrl demo"):
        assert status.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "learner" in shown
    assert "redis://127.0.0.1:1 did not answer" in shown
    assert status.main([str(tmp_path)]) == 0
    assert "did not answer" not in capsys.readouterr().out  # a run that has ended has no services to ask


def test_a_wrong_choice_names_all():
    with pytest.raises(InputError, match=r"nearest is 'up' \(of up, down\)"):
        cli.choose(["upp"], {"up": "", "down": ""}, prog="x", about="")
