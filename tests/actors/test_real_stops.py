"""A stop of the arm does not end its session: its cause is shown and mended, the same process goes on after a go."""

import os
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest
from camera_server import cameras
from console_session import Observer
from standin import ideal_robot
from test_real_console import JUDGES, SIDE, WRIST, at_console, evaluation, lines, moves, session, stays

from protos.status import STATUS_VARIABLE, read_status

pytest.importorskip("rtde_control")
pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def robot():
    with ideal_robot(fast=False) as robot:
        yield robot


@pytest.fixture(scope="module")
def served():
    with cameras(SIDE, WRIST) as served:
        yield served


@pytest.fixture
def settings(robot, served, tmp_path):
    return at_console(robot, served, tmp_path, max_age_s=2.0)


def begins(operator):
    operator.answer("go")
    operator.wait_for("Place the objects")
    operator.answer("go")
    operator.wait_for(JUDGES)


def goes_on(operator, robot, why):
    """Checks that nothing moves before "go", and that the attempt begins anew after it."""
    operator.wait_for(f"HELD: stopped: {why}")
    with closing(Observer(robot.host)) as observer:
        stays(operator, observer, "\n", "s\n", seconds=0.5)
        since = time.monotonic()
        begins(operator)
        moves(observer, since)


def driver_of(process):
    """The process id of a session's driver, its only child."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def test_one_session_goes_on_after_every_kind_of_stop(settings, robot, served, policy, tmp_path, monkeypatch):
    monkeypatch.setenv(STATUS_VARIABLE, str(tmp_path / "status.json"))
    with session("evaluate", evaluation(settings, policy, tmp_path), tmp_path, "--arm") as operator:
        begins(operator)

        robot.protective_stop()
        operator.wait_for("STOPPED: protective stop: find the cause, free the arm")
        assert read_status(tmp_path / "status.json").doing.startswith("STOPPED: protective stop: find the cause")
        operator.wait_for("STOPPED: UR controller at")  # it is tried, and not mended yet
        operator.type("go\n")
        robot.pendant("unlock protective stop")
        goes_on(operator, robot, "protective stop")

        robot.lab.pendant(safety="ROBOT_EMERGENCY_STOP")
        operator.wait_for("STOPPED: emergency stop (robot): release the button")
        robot.lab.pendant(safety="NORMAL", is_remote=False)
        operator.wait_for("local control: choose remote control")
        robot.lab.pendant(is_remote=True)
        goes_on(operator, robot, "emergency stop")

        served[0].is_frozen = True
        operator.wait_for("repeats images to the bit")
        served[0].is_frozen = False
        goes_on(operator, robot, "camera")

        os.kill(driver_of(operator.process), signal.SIGKILL)
        operator.wait_for("STOPPED: the arm's driver has ended")
        goes_on(operator, robot, "the arm's driver")

        robot.kill()
        operator.wait_for("STOPPED: ")
        robot.start()
        goes_on(operator, robot, "")

        operator.type("s\n")
        operator.wait_for("Place the objects")
        robot.protective_stop()
        operator.answer("go")
        operator.wait_for("STOPPED: protective stop")
        operator.process.send_signal(signal.SIGINT)
        assert operator.end() == 130, operator.log
    (line,) = lines(tmp_path / "eval.jsonl")
    assert line["success"], "attempts that were stopped left no line"
    assert "1 episodes, 1 successful" in operator.log and "6 stops of the arm" in operator.log
