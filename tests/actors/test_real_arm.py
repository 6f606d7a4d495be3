"""The arm's driver against a controller whose arm is where it is told to be."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from standin import BOX, PERIOD_S, SLOW, arm_at, by, free_host, ideal_robot, until

from actors.real import arm as driver
from actors.real.arm import ArmSettings, UrArm
from actors.real.link import Link
from actors.real.safety import Limits, LimitSettings
from protos.errors import ArmHeld, ArmStopped, InputError, Unreachable

pytest.importorskip("rtde_control")


class Clock:
    """The clock of the arm's own watchdog and deadlines; it stands still until a test moves it on."""

    def __init__(self):
        self.now_s = 0.0

    def monotonic(self):
        return self.now_s

    @staticmethod
    def sleep(seconds):
        time.sleep(seconds)


@pytest.fixture(scope="module", autouse=True)
def clock():
    with pytest.MonkeyPatch.context() as patch:
        stopped = Clock()
        patch.setattr(driver, "time", stopped)
        yield stopped


def open_arm(host, **settings):
    return arm_at(UrArm, host, **settings)


@pytest.fixture(scope="module")
def robot():
    with ideal_robot(pace=SLOW) as robot:
        yield robot


@pytest.fixture(scope="module")
def connected(robot):
    with open_arm(robot.host) as arm:
        yield arm


@pytest.fixture
def arm(connected):
    connected.release()
    return connected


def where(arm):
    return arm.observe().pose


def test_connecting_moves_nothing_and_without_arming_nothing_moves(robot):
    with open_arm(robot.host, armed=False) as arm:
        before = where(arm)
        with pytest.raises(InputError, match="not armed"):
            arm.servo(by(before, 0.01), PERIOD_S)
        with pytest.raises(InputError, match="not armed"):
            arm.move_to(by(before, 0.01))
        np.testing.assert_array_equal(where(arm), before)


def test_a_servo_step_arrives_and_takes_one_period_of_robot_time(arm):
    pose, began = arm.anchor(), arm.time_s
    for i in range(5):
        goal = by(pose, 0.01 * (i + 1), -0.005 * (i + 1), 0.002 * (i + 1))
        np.testing.assert_allclose(arm.servo(goal, PERIOD_S), goal, atol=1e-12)
        np.testing.assert_allclose(where(arm), goal, atol=2e-3)
    assert arm.time_s - began == pytest.approx(5 * PERIOD_S, abs=0.08)
    np.testing.assert_allclose(arm.anchor(), goal, atol=1e-12)


def test_the_rhythm_absorbs_the_time_spent_thinking(arm):
    began = arm.time_s
    for _ in range(10):
        arm.servo(arm.anchor(), PERIOD_S)
        time.sleep(0.02)
    assert arm.time_s - began == pytest.approx(10 * PERIOD_S + 0.02, abs=0.09)


def test_a_long_command_is_clipped_and_counted(arm):
    before, clipped = arm.anchor(), arm.limits.clipped["speed"]
    reached = arm.servo(by(before, 0, 0.15), PERIOD_S)
    assert reached[1] - before[1] == pytest.approx(arm.limits.settings.speed_m_s * PERIOD_S)
    assert arm.limits.clipped["speed"] == clipped + 1


def test_a_move_arrives_and_refuses_to_leave_the_box(arm):
    goal = np.array([-0.5, 0.1, 0.2, *arm.anchor()[3:]])
    arm.move_to(goal)
    np.testing.assert_allclose(where(arm), goal, atol=4e-3)
    with pytest.raises(InputError, match="outside the work box"):
        arm.move_to(by(goal, 0, 0, 0.2))


class Refusing:
    """An ur_rtde control interface that refuses some commands as it does on a computer that stalls: without a word."""

    def __init__(self, control, *commands):
        self._control, self._commands = control, commands

    def __getattr__(self, name):
        return (lambda *_: False) if name in self._commands else getattr(self._control, name)


@pytest.mark.parametrize("command", ["moveL", "servoL"])
def test_a_command_refused_without_a_reason_holds_until_a_person_says_go_on(arm, monkeypatch, command):
    before = where(arm)
    goal = by(before, 0.01)

    def move():
        return arm.move_to(goal) if command == "moveL" else arm.servo(goal, PERIOD_S)

    with monkeypatch.context() as patch:
        patch.setattr(arm._link, "control", Refusing(arm._link.control, command))
        for _ in range(3):
            for reason in ("did not say why", command):  # the second time because it is held
                with pytest.raises(ArmHeld, match=reason):
                    move()
            arm.release()
        with pytest.raises(ArmStopped, match="4 times in a row"):
            move()
        np.testing.assert_allclose(where(arm), before, atol=1e-6)
    arm.release()
    move()
    assert not arm.held


def test_nan_and_jumps_are_refused_and_move_nothing(arm):
    before = where(arm)
    with pytest.raises(InputError, match="finite"):
        arm.servo(by(before, np.nan), PERIOD_S)
    with pytest.raises(ArmStopped, match="refused"):
        arm.servo(by(before, 0.5), PERIOD_S)
    np.testing.assert_allclose(where(arm), before, atol=1e-6)


def test_the_watchdog_holds_when_no_fresh_action_comes(clock):
    with ideal_robot(latency_steps=(3,), pace=SLOW) as robot, open_arm(robot.host, hold_after_s=0.15) as arm:
        goal = by(arm.anchor(), 0.03)
        arm.servo(goal, PERIOD_S)  # heard 0.3 s late: the arm is still on its way
        assert arm.holds == 0
        clock.now_s += 0.16
        until(lambda: arm.holds == 1, "the watchdog holds")
        anchor, held = arm.anchor(), where(arm)
        np.testing.assert_allclose(anchor, held, atol=1e-6, err_msg="it goes on from where it was held")
        assert held[0] < goal[0] - 0.005, "held on the way, not at the end of it"
        with pytest.raises(ArmHeld, match="no fresh action for 160 ms"):
            arm.servo(goal, PERIOD_S)
        arm.release()
        arm.rest(0.5)  # longer than the targets before the hold were on their way
        np.testing.assert_allclose(where(arm), held, atol=1e-3)
        arm.servo(by(arm.anchor(), 0, 0.01), PERIOD_S)
        assert arm.holds == 1


def test_a_person_says_go_on_before_the_first_motion_and_after_a_standstill(clock):
    with ideal_robot(pace=SLOW) as robot, open_arm(robot.host, released=False) as arm:
        for reason in ("the first motion", "the arm has stood still for 1.1 s"):
            before = where(arm)
            for move in (
                lambda at: arm.servo(by(at, 0.01), PERIOD_S),
                lambda at: arm.move_to(by(at, 0.01)),
                lambda at: arm.rest(0.1),
            ):
                with pytest.raises(ArmHeld, match=reason):
                    move(before)
            np.testing.assert_array_equal(where(arm), before)
            assert arm.held == reason
            arm.release()
            assert arm.held == ""
            arm.servo(arm.anchor(), PERIOD_S)
            arm.hold("planned")
            assert arm.held == ""
            clock.now_s += 1.1


def test_resting_keeps_the_place_for_a_time_of_the_robot(arm):
    before, began = arm.anchor(), arm.time_s
    arm.rest(0.5)
    assert arm.time_s - began >= 0.5
    np.testing.assert_allclose(where(arm), before, atol=1e-4)


class LateReceiver:
    """The state connection of ur_rtde, one package behind: it hears of a protective stop when it is asked again."""

    def __init__(self):
        self.status, self.safety = iter((0b11, 0b11, 0b01)), 1

    def isConnected(self):  # noqa: N802
        return True

    def getSafetyMode(self):  # noqa: N802
        return self.safety

    def getRobotStatus(self):  # noqa: N802
        status = next(self.status)
        self.safety = 1 if status & 0b10 else 3
        return status


class StoppedControl:
    """The control connection of ur_rtde, which already knows that the script has ended."""

    def isConnected(self):  # noqa: N802
        return True

    def isProgramRunning(self):  # noqa: N802
        return False


def test_the_cause_of_a_stop_is_named_although_the_end_of_the_script_is_heard_first():
    assert "protective stop: find the cause" in Link(LateReceiver(), StoppedControl(), timeout_s=3.0).script_end()


def test_a_protective_stop_ends_everything():
    with ideal_robot() as robot, open_arm(robot.host) as arm:
        arm.servo(by(arm.anchor(), 0.01), PERIOD_S)
        robot.protective_stop()
        with pytest.raises(ArmStopped, match="protective stop: find the cause"):
            for _ in range(100):
                arm.servo(by(arm.anchor(), 0.01), PERIOD_S)
        stopped_at = arm._link.state().pose
        for forbidden in (
            lambda: arm.servo(by(stopped_at, 0.01), PERIOD_S),
            lambda: arm.move_to(by(stopped_at, 0.01)),
            lambda: arm.rest(0.2),
        ):
            with pytest.raises(ArmStopped):
                forbidden()
        with pytest.raises(ArmStopped, match="protective stop: find the cause"):
            arm.release()
        robot.pendant("unlock protective stop")
        time.sleep(0.2)
        with pytest.raises(ArmHeld, match="protective stop"):
            arm.servo(by(stopped_at, 0.01), PERIOD_S)
        np.testing.assert_allclose(arm._link.state().pose, stopped_at, atol=1e-6, err_msg="nothing moves by itself")
        arm.release()
        arm.servo(by(arm.anchor(), 0.01), PERIOD_S)
        with pytest.raises(ArmStopped, match="PROTECTIVE_STOP"):
            robot.protective_stop()
            open_arm(robot.host)


def test_a_stop_while_moving_is_noticed():
    with ideal_robot(fast=False, pace=SLOW) as robot, open_arm(robot.host, move_speed_m_s=0.05) as arm:
        threading.Timer(0.5, robot.protective_stop).start()
        with pytest.raises(ArmStopped, match="protective stop"):
            arm.move_to(by(arm.anchor(), 0.1))


class Pressing(Limits):
    """Limits that find the tool pressing against something from the n-th look on."""

    looks = 12

    def check_measured(self, **state):
        self.looks -= 1
        return "force at the TCP" if self.looks < 0 else ""


def test_a_limit_that_trips_while_moving_ends_the_move():
    with ideal_robot(fast=False, pace=SLOW) as robot:
        settings = ArmSettings(host=robot.host, move_speed_m_s=0.05, hold_after_s=1.0)
        with UrArm(settings, Pressing(BOX, LimitSettings()), armed=True) as arm:
            arm.release()
            goal = by(arm.anchor(), 0.1)
            with pytest.raises(ArmStopped, match="force at the TCP"):
                arm.move_to(goal)
            until(lambda: np.abs(arm.observe().velocity).max() < 1e-3, "the arm stands")
            stopped_at = where(arm)
            time.sleep(0.5)
            np.testing.assert_allclose(where(arm), stopped_at, atol=1e-4)
            assert stopped_at[0] < goal[0] - 0.05


def test_real_time_without_running_ahead():
    with ideal_robot(fast=False) as robot, open_arm(robot.host) as arm:
        wall, began, goal = time.monotonic(), arm.time_s, by(arm.anchor(), 0.02)
        for _ in range(3):
            arm.servo(goal, PERIOD_S)
        assert arm.time_s - began >= 0.29 and time.monotonic() - wall >= 0.25

        def has_arrived():  # a computer that stalls needs more periods
            arm.servo(goal, PERIOD_S)
            return np.allclose(where(arm), goal, atol=1e-3)

        until(has_arrived, "it is at the goal")


LOSING = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from standin import IdealRobot
from test_real_arm import PERIOD_S, by, open_arm
from protos.errors import ArmStopped

robot = IdealRobot()
arm = open_arm(robot.host)
arm.servo(by(arm.anchor(), 0.01), PERIOD_S)
getattr(robot, sys.argv[2])()
began, said = time.monotonic(), ""
try:
    while time.monotonic() < began + 30:
        arm.servo(arm.anchor(), PERIOD_S)
except ArmStopped as error:
    said = str(error)
noticed = time.monotonic() - began
arm.close()
robot.kill()
sys.stdout.write(f"\\n{noticed:.1f} {time.monotonic() - began:.1f} {said}")
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize("what", ["kill", "freeze"])
def test_a_lost_controller_is_noticed_in_seconds(what):
    """The test is a process of its own: ur_rtde's threads go on looking for the controller for as long as they live."""
    arguments = [sys.executable, "-c", LOSING, str(Path(__file__).parent), what]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    noticed, closed, said = done.stdout.splitlines()[-1].split(" ", 2)
    assert "link to the controller lost" in said or "clock stands still" in said
    assert float(noticed) < 25 and float(closed) < 60  # deadlines of 3 s, on a machine that may be busy


def test_nobody_there_is_said_with_the_port_and_the_deadline():
    host = free_host()
    with pytest.raises(Unreachable, match=rf"{host}: dashboard port 29999.*deadline 3 s"):
        open_arm(host)


def test_a_port_that_accepts_and_says_nothing():
    host = free_host()
    sockets = [socket.create_server((host, port)) for port in (29999, 30003, 30004)]
    with pytest.raises(Unreachable, match=r"dashboard.*deadline 3 s"):
        open_arm(host)
    for one in sockets:
        one.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"stream_hz": 1.0},
        {"lookahead_s": 0.5},
        {"blend": 0.0},
        {"hold_after_s": 60.0},
        {"gain": 1.0},
        {"controller_watchdog_hz": 0.0},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ArmSettings(**wrong)


def test_a_stream_that_finds_the_controller_gone_is_a_lost_link():
    """ur_rtde raises where it looks for a controller that has just gone."""

    def servo() -> bool:
        raise RuntimeError("Timeout connecting to UR dashboard server.")

    link = Link(LateReceiver(), StoppedControl(), timeout_s=3.0)
    assert link.is_connected
    with pytest.raises(ArmStopped, match=r"link to the controller lost.*dashboard"):
        link.stream("servoL", servo)
    assert not link.is_connected
