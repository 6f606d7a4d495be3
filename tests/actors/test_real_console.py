"""Sessions at the console from end to end: nothing moves and nothing counts without a fresh answer."""

import json
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import asdict

import numpy as np
import pytest
from camera_server import cameras, scene
from console_session import STILL_M, Observer, Session
from redis import Redis
from standin import ideal_robot, until
from weights_process import WeightsProcess

from actors.real import ArmSettings, ConsoleLab, EvaluatePlan, RealSettings, TrainPlan, UsbCameraSettings
from actors.real.table.checks import Views
from protos.schema import Schema
from protos.settings import save_settings, to_json
from services.guide import GuideSettings
from services.replay import EmbeddedServer, ReplaySettings
from services.replay.settings import Keys
from services.weights import StalenessBound, WeightPublisher
from twin import tasks

pytest.importorskip("rtde_control")
pytest.importorskip("cv2")
torch = pytest.importorskip("torch")
TASK = tasks.get("pick_and_place")
SIDE, WRIST = scene(1), scene(2)
STALE = ("\n", "go\ngo\n", "s\n", "go\n\n")
SOLVED, JUDGES, MOVES = '"s": success', "s and Enter: the task is solved", "The arm moves.\n"


@pytest.fixture(scope="module")
def robot():
    with ideal_robot(fast=False) as robot:
        yield robot


@pytest.fixture
def observer(robot):
    with closing(Observer(robot.host)) as observer:
        yield observer


@pytest.fixture(scope="module")
def served():
    with cameras(SIDE, WRIST) as served:
        yield served


@pytest.fixture
def settings(robot, served, tmp_path):
    return at_console(robot, served, tmp_path, max_age_s=5.0)


def at_console(robot, served, folder, *, max_age_s):
    """Returns settings of an arm whose operator sits at a console, with references of both cameras."""
    Views(SIDE[..., ::-1], WRIST[..., ::-1]).save(folder / "cameras")
    side, wrist = (UsbCameraSettings(device=fake.url, max_age_s=max_age_s) for fake in served)
    return {
        "arm": ArmSettings(host=robot.host, hold_after_s=1.0),
        "lab": ConsoleLab(side=side, wrist=wrist, references=folder / "cameras"),
        "operator": "none",
    }


@contextmanager
def session(mode, settings, folder, *extra):
    with closing(Session(mode, RealSettings(**settings), folder, *extra)) as session:
        yield session


def evaluation(settings, policy, folder, starts=2):
    rng = np.random.default_rng(5)
    chosen = [asdict(TASK.space.sample(rng, region=region)) for region in "AB" * starts][:starts]
    (folder / "starts.json").write_text(json.dumps(chosen))
    plan = EvaluatePlan(out=folder / "eval.jsonl", configurations=folder / "starts.json")
    return settings | {"evaluate": plan, "policy": policy[0]}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def stays(session, observer, *typed, seconds=1.0):
    """Checks that a question stands and nothing moves, whatever of this is typed."""
    since = time.monotonic()
    for text in typed:
        time.sleep(0.4)
        session.type(text)
    time.sleep(seconds)
    assert observer.moved_m(since) < STILL_M, session.keyboard.screen


def moves(observer, since, seconds=30.0):
    until(lambda: observer.moved_m(since) > STILL_M, "the arm moves", seconds=seconds)


def test_stale_early_and_doubled_answers_move_nothing_and_solve_nothing(settings, policy, observer, tmp_path):
    with session("evaluate", evaluation(settings, policy, tmp_path), tmp_path, "--arm") as operator:
        for text in STALE:
            operator.type(text)
        operator.wait_for("HELD: the first motion")
        operator.type("go\n")  # faster than anybody reads
        stays(operator, observer, "\n", "s\n", "f\n")
        asked = time.monotonic()
        operator.answer("go\ngo")  # "go" is typed twice
        moves(observer, asked)
        operator.wait_for("Place the objects")
        time.sleep(0.3)
        stays(operator, observer, "\n\n", "s\n", "yes\n")
        operator.type("s\n")
        operator.answer("go\ns")  # judged before the first step
        operator.wait_for(JUDGES)
        began = time.monotonic()
        operator.type("\ngo\n")
        operator.wait_for('"go": ignored')
        moves(observer, began)
        operator.type("s\ns\n")
        operator.wait_for(SOLVED)
        operator.type("s\ngo\n")
        operator.wait_for("Place the objects")
        time.sleep(0.3)
        stays(operator, observer, "s\n")
        operator.answer("go")
        operator.wait_for(JUDGES)
        operator.type("f\n")
        assert operator.end() == 0, operator.log
    first, second = lines(tmp_path / "eval.jsonl")
    assert first["success"] and first["steps"] > TASK.success_steps
    assert second["outcome"] == "failure" and second["steps"] < TASK.max_steps


def test_an_episode_that_nobody_judges_is_no_success(settings, policy, observer, tmp_path):
    with session("evaluate", evaluation(settings, policy, tmp_path, 1), tmp_path, "--arm") as operator:
        operator.answer("go")
        operator.wait_for("Place the objects")
        operator.answer("go\ns\ns")
        assert operator.end() == 0, operator.log
    assert [line["outcome"] for line in lines(tmp_path / "eval.jsonl")] == ["timeout"]


def test_a_program_that_was_stopped_asks_before_its_episode_goes_on(settings, policy, observer, tmp_path):
    with session("evaluate", evaluation(settings, policy, tmp_path, 1), tmp_path, "--arm") as operator:
        operator.answer("go")
        operator.wait_for("Place the objects")
        operator.answer("go")
        operator.wait_for(JUDGES)
        operator.process.send_signal(signal.SIGSTOP)
        time.sleep(2.0)
        since = time.monotonic()
        operator.type("s\ngo\n")
        operator.process.send_signal(signal.SIGCONT)
        operator.wait_for("THE ARM IS HELD: ")
        stays(operator, observer, "\n", "s\n")
        assert observer.moved_m(since) < STILL_M
        since = time.monotonic()
        operator.answer("go")
        moves(observer, since)
        operator.wait_for(JUDGES)
        operator.type("s\n")
        assert operator.end() == 0, operator.log
    (line,) = lines(tmp_path / "eval.jsonl")
    assert line["success"] and line["steps"] > TASK.success_steps


@pytest.mark.parametrize("at", ["question", "episode"])
def test_a_terminal_that_hangs_up_holds_the_arm(at, settings, policy, observer, tmp_path):
    with session("evaluate", evaluation(settings, policy, tmp_path, 1), tmp_path, "--arm") as operator:
        operator.answer("go")
        operator.wait_for("Place the objects")
        if at == "episode":
            operator.answer("go")
            operator.wait_for(JUDGES)
        operator.keyboard.hang_up()
        assert operator.end() in (2, 130), operator.log
    since = time.monotonic()
    time.sleep(0.5)
    assert observer.moved_m(since) < STILL_M
    assert lines(tmp_path / "eval.jsonl") == []


def test_a_start_without_arm_moves_nothing_and_keeps_confirmed_references(settings, policy, observer, tmp_path):
    lab, since = settings["lab"], time.monotonic()
    for path in lab.references.iterdir():
        path.unlink()
    with session("evaluate", evaluation(settings, policy, tmp_path), tmp_path, "--arm") as operator:
        assert operator.end() == 2 and "start once without --arm" in operator.log
    for answer, is_kept in (("no", False), ("yes", True)):
        with session("evaluate", evaluation(settings, policy, tmp_path), tmp_path) as operator:
            operator.type("yes\n")  # before it was asked
            operator.wait_for("Type yes or no, then Enter.\n")
            time.sleep(0.5)
            assert not (lab.references / "side.png").exists() and (lab.references / "now" / "side.png").exists()
            operator.type(f"{answer}\n")
            assert operator.end() == 2, operator.log
        assert (lab.references / "wrist.png").exists() == is_kept
        assert "not confirmed" in operator.log if not is_kept else "not armed" in operator.log.splitlines()[-1]
    assert observer.moved_m(since) < STILL_M


@contextmanager
def guide_process(folder):
    """Runs the guide; yields its address and its process."""
    settings, port = save_settings(GuideSettings(space=TASK.space), folder / "guide.json"), folder / "guide.port"
    command = [sys.executable, "-m", "services.guide", "--settings", str(settings), "--port-file", str(port)]
    process = subprocess.Popen(command)
    try:
        until(port.exists, "the guide listens", seconds=60)
        yield f"127.0.0.1:{port.read_text().strip()}", process
    finally:
        process.kill()
        process.wait(10)


def allow(server, replay, total):
    Redis.from_url(server.url).set(Keys(replay.prefix, "real").allowance, total)


def test_whoever_was_away_is_named_and_nothing_moves_before_go(settings, policy, observer, tmp_path):
    with (
        guide_process(tmp_path) as (guide_address, guide),
        EmbeddedServer(tmp_path / "replay") as server,
        WeightsProcess(tmp_path / "weights") as weights,
        closing(WeightPublisher(weights.address, connect_deadline_s=60.0)) as publisher,
    ):
        publisher.publish(policy[1].parts(), settings={"policy": to_json(policy[1].settings)})
        publisher.wait(60.0)
        replay = ReplaySettings(urls=(server.url,))
        allow(server, replay, 1)
        plan = TrainPlan(out=tmp_path / "episodes.jsonl", env_steps=10_000)
        settings |= {
            "replay": replay,
            "spool": tmp_path / "spool",
            "weights": weights.address,
            "guide": guide_address,
            "staleness": StalenessBound(silent_s=1.0),
            "train": plan,
            "schema": Schema(),
        }
        with session("train", settings, tmp_path, "--arm") as operator:

            def episode():
                operator.wait_for("Place the objects")
                operator.answer("go")
                operator.wait_for(JUDGES)

            def asks(reason, back):
                """The episode ends; somebody is away and comes back; the operator is asked."""
                operator.type("f\n")
                operator.wait_for('"f": failure')
                time.sleep(2.0)
                since = time.monotonic()
                back()
                operator.wait_for(reason)
                stays(operator, observer, "\n", "s\n", seconds=1.5)
                assert observer.moved_m(since) < STILL_M
                since = time.monotonic()
                operator.answer("go")
                moves(observer, since)

            operator.answer("go")
            episode()
            asks("HELD: it waits for the learner: buffer real has all", lambda: allow(server, replay, 100_000))
            episode()
            weights.kill()
            time.sleep(1.5)
            asks("HELD: weights: no connection for", weights.start)
            episode()
            guide.send_signal(signal.SIGSTOP)
            operator.type("f\n")
            operator.wait_for('"f": failure')
            episode()  # from the guide's last map
            assert "starts come from its last map" in operator.log
            guide.send_signal(signal.SIGCONT)
            operator.process.terminate()
            assert operator.end() == 130, operator.log
    assert [line["outcome"] for line in lines(plan.out)] == ["failure"] * 3
