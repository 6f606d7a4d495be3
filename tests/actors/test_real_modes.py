"""`python -m actors.real` from end to end: real services, the stand-in with physics, processes that are interrupted."""

import json
import signal
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from standin import standin_process, until

from actors.human import TakeoverSettings
from actors.lab import LabClient
from actors.real import ArmSettings, DemonstratePlan, EvaluatePlan, RealSettings, SimulatedLab, TrainPlan
from protos.schema import Outcome, Schema, Source
from protos.settings import save_settings, to_json
from protos.status import STATUS_VARIABLE, read_status
from services.guide import GuideClient, GuideSettings
from services.replay import EmbeddedServer, ReplaySettings, read_episodes, totals
from services.weights import WeightPublisher
from twin import tasks

pytest.importorskip("rtde_control")
torch = pytest.importorskip("torch")
TASK = tasks.get("pick_and_place")
SCHEMA = Schema()


@pytest.fixture(scope="module")
def standin(tmp_path_factory):
    with standin_process(tmp_path_factory.mktemp("standin")) as standin:
        yield standin


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("rp")) as server:
        yield ReplaySettings(urls=(server.url,))


@pytest.fixture
def settings(standin, replay, tmp_path):
    return RealSettings(
        arm=ArmSettings(host=standin.host, hold_after_s=1.0, blend=0.3),
        lab=SimulatedLab(timeout_s=30),
        takeover=TakeoverSettings(stuck_s=0.5),
        replay=replay,
        spool=tmp_path / "spool",
    )


def start(mode, settings, folder, *extra):
    path = save_settings(settings, folder / "real.json")
    command = [sys.executable, "-m", "actors.real", mode, "--settings", str(path), *extra]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


def run(mode, settings, folder, *extra):
    process = start(mode, settings, folder, *extra)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@contextmanager
def service(module, folder, *arguments):
    """Runs a service's process on a free port; yields its address."""
    with service_process(module, folder, *arguments) as (address, _):
        yield address


@contextmanager
def service_process(module, folder, *arguments, listen="127.0.0.1:0"):
    """Runs a service's process, on a free port unless told otherwise; yields its address and the process."""
    port = folder / f"{module}.port"
    command = [sys.executable, "-m", module, "--listen", listen, "--port-file", str(port), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(port.exists, f"{module} listens", seconds=60)
        yield f"127.0.0.1:{port.read_text().strip()}", process
    finally:
        process.terminate()
        process.wait(20)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_without_arming_it_shows_the_arm_and_refuses(settings, tmp_path):
    code, errors = run("demonstrate", settings, tmp_path)
    assert code == 2 and "TCP [" in errors
    assert errors.splitlines()[-1].startswith("twinrl: the arm is not armed")


def test_demonstrations_reach_the_replay(settings, tmp_path, replay):
    settings = replace(settings, demonstrate=DemonstratePlan(episodes=2, region="A"), scene="table")
    code, errors = run("demonstrate", settings, tmp_path, "--arm")
    assert code == 0, errors
    episodes = list(read_episodes(replay, SCHEMA, ("demo",)))
    assert len(episodes) == 2
    for episode in episodes:
        assert episode.outcome is Outcome.SUCCESS and episode.source is Source.REAL
        assert episode.human.all() and episode.configuration.region == "A" and episode.scene == "table"
        assert episode.observation.side.std() > 5, "the images show something"
        assert np.abs(np.diff(episode.observation.proprio[:, :3], axis=0)).max() < 0.06


def test_demonstrations_that_found_no_room_are_said(settings, tmp_path, replay):
    plan = DemonstratePlan(episodes=1, region="A")
    settings = replace(settings, demonstrate=plan, replay=replace(replay, spool_bytes=1000))
    code, errors = run("demonstrate", settings, tmp_path, "--arm")
    assert code == 2 and "segments of this session are lost" in errors.splitlines()[-1], errors


def test_an_evaluation_writes_a_line_per_configuration_behind_those_of_its_life_before(
    settings, tmp_path, policy, monkeypatch
):
    monkeypatch.setenv(STATUS_VARIABLE, str(tmp_path / "evaluation.status.json"))
    rng = np.random.default_rng(5)
    starts = [TASK.space.sample(rng, region=region) for region in "AAB"]
    (tmp_path / "starts.json").write_text(json.dumps([asdict(one) for one in starts]))
    plan = EvaluatePlan(out=tmp_path / "before.jsonl", configurations=tmp_path / "starts.json", resume=True)
    plan.out.write_text('{"first": "tried before"}\n')
    code, errors = run("evaluate", replace(settings, evaluate=plan, policy=policy[0], armed=True), tmp_path)
    assert code == 0, errors
    assert read_status(tmp_path / "evaluation.status.json").doing == "2 of 2 episodes"
    first, *found = lines(plan.out)
    assert first == {"first": "tried before"}
    del starts[0]
    assert [line["cell"] for line in found] == [one.cell for one in starts]
    for line, one in zip(found, starts, strict=True):
        assert (line["x"], line["y"]) == one.poses["cube"][:2] and line["region"] == one.region
        assert line["human_steps"] == line["interventions"] == 0 and line["operator"] == "none"
        assert line["success"] == (line["outcome"] == "success") and 1 <= line["steps"] <= TASK.max_steps


def test_training_talks_to_guide_weights_and_replay(settings, tmp_path, policy, replay):
    guide = save_settings(GuideSettings(space=TASK.space), tmp_path / "guide.json")
    before = totals(replay)
    with (
        service("services.guide", tmp_path, "--settings", str(guide)) as guide_address,
        service("services.weights", tmp_path, "--store", str(tmp_path / "store")) as weights_address,
        closing(WeightPublisher(weights_address)) as publisher,
    ):
        version = publisher.publish(policy[1].parts(), settings={"policy": to_json(policy[1].settings)})
        publisher.wait()
        plan = TrainPlan(out=tmp_path / "episodes.jsonl", env_steps=30)
        code, errors = run(
            "train",
            replace(settings, train=plan, guide=guide_address, weights=weights_address, armed=True),
            tmp_path,
        )
    assert code == 0, errors
    found = lines(plan.out)
    assert found[-1]["total_steps"] >= 30 and all(line["operator"] == "scripted" for line in found)
    assert all(line["version"] == version for line in found)
    assert all(line["interventions"] >= 1 and line["human_steps"] > 0 for line in found), "an untrained policy stalls"
    assert [line["robot_s"] for line in found] == sorted(line["robot_s"] for line in found)
    after = totals(replay)
    assert after["real"] - before["real"] == found[-1]["total_steps"]
    assert 0 < after["human"] - before["human"] <= after["real"] - before["real"]


def test_a_session_outlives_its_guide_and_a_protective_stop(settings, tmp_path, policy, standin, monkeypatch):
    monkeypatch.setenv(STATUS_VARIABLE, str(tmp_path / "training.status.json"))
    guide = save_settings(GuideSettings(space=TASK.space), tmp_path / "guide.json")
    options = ("--settings", str(guide), "--state", str(tmp_path / "guide.state"))
    plan = TrainPlan(out=tmp_path / "episodes.jsonl", env_steps=100_000)
    settings = replace(settings, train=plan)
    with (
        service_process("services.guide", tmp_path, *options) as (guide_address, guide_process),
        service("services.weights", tmp_path, "--store", str(tmp_path / "store")) as weights_address,
        closing(WeightPublisher(weights_address)) as publisher,
    ):
        publisher.publish(policy[1].parts(), settings={"policy": to_json(policy[1].settings)})
        publisher.wait()
        process = start("train", replace(settings, guide=guide_address, weights=weights_address), tmp_path, "--arm")
        goes_on(plan.out)
        guide_process.kill()
        guide_process.wait(10)
        goes_on(plan.out)
        with (
            service_process("services.guide", tmp_path, *options, listen=guide_address),
            closing(GuideClient(guide_address)) as client,
            closing(LabClient(standin.host)) as lab,
        ):
            until(lambda: reported(client) == len(lines(plan.out)), "what was reported meanwhile has arrived, once")
            lab.protective_stop()
            until(lambda: "safety PROTECTIVE_STOP" in doing(tmp_path), "the stop is shown, and tried")
            lab.pendant(safety="NORMAL")
            goes_on(plan.out)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.count("starts come from its last map") == errors.count("the guide is back") == 1
    assert all(line["outcome"] != "stopped" for line in lines(plan.out))
    robot_s = [line["robot_s"] for line in lines(plan.out)]
    assert robot_s == sorted(robot_s)


def goes_on(out):
    """Waits for the end of another episode."""
    before = len(lines(out)) if out.exists() else 0
    until(lambda: out.exists() and len(lines(out)) > before, "another episode has ended", seconds=90)


def reported(client):
    return sum(cell.real_episodes for cell in client.success_map())


def doing(folder):
    return read_status(folder / "training.status.json").doing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_holds_the_arm_saves_and_ends(settings, tmp_path, number, replay):
    settings = replace(settings, demonstrate=DemonstratePlan(episodes=500), armed=True, name=f"ends-{number.name}")
    before = totals(replay)["demo"]
    process = start("demonstrate", settings, tmp_path)
    until(lambda: totals(replay)["demo"] > before, "a demonstration is stored", seconds=60)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "ended by the operator" in errors.splitlines()[-1] and "successful" in errors
    assert "unsent" not in errors


def test_a_controller_that_nobody_starts_again_ends_the_run_with_one_clear_line(settings, tmp_path):
    with standin_process(tmp_path) as doomed:
        settings = replace(
            settings,
            arm=replace(settings.arm, host=doomed.host),
            lab=SimulatedLab(timeout_s=30, mended_within_s=1.0),
            demonstrate=DemonstratePlan(episodes=500),
            armed=True,
        )
        process = start("demonstrate", settings, tmp_path)
        status = Path(tmp_path / "standin.log")
        until(lambda: "script" in status.read_text() or process.poll() is not None or _moves(doomed), "it moves", 60)
        doomed.kill()
        _, errors = process.communicate(timeout=90)
    assert process.returncode == 3, errors
    last = [line for line in errors.splitlines() if line.startswith("twinrl: ")]
    assert len(last) == 1 and ("lost" in last[0] or "lab" in last[0] or "clock" in last[0])


def _moves(standin):
    lab = LabClient(standin.host)
    images = [lab.images()[0].astype(int) for _ in range(2)]
    lab.close()
    return np.abs(images[1] - images[0]).max() > 40


@pytest.mark.parametrize(
    ("mode", "changes", "words"),
    [
        ("evaluate", {}, "no 'evaluate' block"),
        ("train", {"train": TrainPlan(out=Path("x"))}, "guide is empty"),
        ("demonstrate", {"replay": None}, "replay is missing"),
    ],
)
def test_what_is_missing_is_said_before_anything_moves(settings, tmp_path, mode, changes, words):
    code, errors = run(mode, replace(settings, **changes), tmp_path)
    assert code == 2 and words in errors.splitlines()[-1]
