"""The arm's driver in a process of its own: the same arm through its client, and what becomes of it in every fault."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from standin import BOX, PERIOD_S, SLOW, arm_at, by, ideal_robot, until

from actors.real.arm import ArmSettings
from actors.real.driver.client import ArmClient
from actors.real.driver.owner import Owner
from actors.real.driver.wire import LIMIT_BYTES, ClosedError, Wire
from actors.real.safety import Limits, LimitSettings
from protos.errors import ArmHeld, ArmStopped, InputError, Unreachable

pytest.importorskip("rtde_control")


def open_client(robot, **settings):
    return arm_at(ArmClient, robot.host, **{"standstill_s": 10.0, "connect_timeout_s": 15.0} | settings)


@pytest.fixture(scope="module")
def robot():
    with ideal_robot(pace=SLOW) as robot:
        yield robot


def driver_of(arm):
    return arm._process.pid


def test_the_client_is_the_arm(robot):
    with open_client(robot, released=False) as arm:
        before = arm.observe().pose
        with pytest.raises(ArmHeld, match="the first motion"):
            arm.servo(by(before, 0.01), PERIOD_S)
        assert arm.held == "the first motion" and arm.can_be_commanded()
        arm.release()
        goal = by(arm.anchor(), 0.02, -0.01)
        np.testing.assert_allclose(arm.servo(goal, PERIOD_S), goal, atol=1e-12)
        np.testing.assert_allclose(arm.anchor(), goal, atol=1e-12)
        np.testing.assert_allclose(arm.observe().pose, goal, atol=2e-3)
        assert arm.time_s > 0
        arm.servo(by(arm.anchor(), 0, 0.15), PERIOD_S)
        assert arm.limits.clipped["speed"] == 1 and arm.holds == 0
        arm.rest(0.1)
        goal = np.array([-0.5, 0.1, 0.2, *arm.anchor()[3:]])
        arm.move_to(goal)
        np.testing.assert_allclose(arm.observe().pose, goal, atol=4e-3)
        arm.hold("planned")
        assert arm.held == ""
        with pytest.raises(InputError, match="outside the work box"):
            arm.move_to(by(goal, 0, 0, 0.2))
        with pytest.raises(InputError, match="finite"):
            arm.servo(by(goal, np.nan), PERIOD_S)
        with pytest.raises(ArmStopped, match="refused a target"):
            arm.servo(by(goal, 0.5), PERIOD_S)
    with pytest.raises(ArmStopped, match="driver has ended"):
        arm.observe()


def test_unarmed_it_shows_itself_and_moves_nothing(robot):
    with open_client(robot, armed=False) as arm:
        pose = arm.observe().pose
        with pytest.raises(InputError, match="not armed"):
            arm.servo(by(pose, 0.01), PERIOD_S)


def test_a_second_program_is_refused_with_the_name_of_the_first(robot):
    with open_client(robot) as arm:
        with pytest.raises(
            InputError, match=rf"driven by process {os.getpid()} on .* since .*; end that program first"
        ):
            open_client(robot)
        arm.servo(by(arm.anchor(), 0.01), PERIOD_S)
    with open_client(robot) as arm:
        arm.servo(by(arm.anchor(), 0.01), PERIOD_S)


def test_a_program_of_another_user_or_computer_is_refused_by_the_controller(robot, tmp_path, monkeypatch):
    with open_client(robot) as arm:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        with pytest.raises(InputError, match="driven by another program, of another user or computer: end that first"):
            open_client(robot)
        arm.release()
        arm.servo(by(arm.anchor(), 0.01), PERIOD_S)


def test_nobody_there_is_said_as_without_a_driver():
    with pytest.raises(Unreachable, match=r"dashboard port 29999.*deadline 1 s"):
        ArmClient(ArmSettings(host="127.9.9.9", connect_timeout_s=1.0), Limits(BOX, LimitSettings()), armed=True)


def test_a_driver_that_dies_is_said_in_one_line_and_the_controller_ends_its_script():
    with ideal_robot(fast=False) as robot, open_client(robot) as arm:
        goal = by(arm.anchor(), 0.05)
        arm.servo(goal, PERIOD_S)
        os.kill(driver_of(arm), signal.SIGKILL)
        with pytest.raises(ArmStopped, match=r"driver has ended .exit status -9.; the controller stops the arm"):
            arm.servo(goal, PERIOD_S)
        until(lambda: not robot.reading().is_script_running, "the controller ends the script")


def test_every_thread_of_a_driver_that_has_real_time_priority_has_it(robot):
    with open_client(robot) as arm:
        driver = driver_of(arm)
        if os.sched_getscheduler(driver) == os.SCHED_OTHER:
            pytest.skip("this user may not ask for real-time priority")
        arm.servo(by(arm.anchor(), 0.01), PERIOD_S)
        threads = [int(thread.name) for thread in Path(f"/proc/{driver}/task").iterdir()]
        assert len(threads) > 2  # the driver's own and ur_rtde's
        assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_FIFO}


def test_a_stopped_driver_is_noticed_and_ended():
    with ideal_robot(fast=False) as robot, open_client(robot, connect_timeout_s=1.0) as arm:
        arm.servo(by(arm.anchor(), 0.05), PERIOD_S)
        os.kill(driver_of(arm), signal.SIGSTOP)
        until(lambda: not robot.reading().is_script_running, "the controller ends the script")
        with pytest.raises(ArmStopped, match="does not answer"):
            arm.observe()
        os.kill(driver_of(arm), signal.SIGKILL)


MAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from types import SimpleNamespace
from test_real_driver import PERIOD_S, by, driver_of, open_client

arm = open_client(SimpleNamespace(host=sys.argv[2]), hold_after_s=0.3, move_speed_m_s=0.02)
sys.stdout.write(f"{driver_of(arm)}\\n")
sys.stdout.flush()
if sys.argv[3] == "move":
    arm.move_to(by(arm.anchor(), 0.1))
while True:
    arm.servo(by(arm.anchor(), 0.001), PERIOD_S)
"""


@contextmanager
def program(robot, motion):
    """Runs a program that moves the arm; yields its process and its driver's id."""
    command = [sys.executable, "-c", MAIN, str(Path(__file__).parent), robot.host, motion]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    driver = int(process.stdout.readline())
    start = robot.reading().pose
    try:
        until(lambda: np.abs(robot.reading().pose - start).max() > 1e-3, "it moves")
        yield process, driver
    finally:
        process.kill()
        process.wait(10)
        until(lambda: not is_there(driver), "the driver leaves")


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def stands(robot):
    before = robot.reading().pose
    time.sleep(0.3)
    return bool(np.abs(robot.reading().pose - before).max() < 1e-5)


@pytest.mark.parametrize("motion", ["servo", "move"])
def test_the_arm_is_held_when_the_program_is_killed(motion):
    with ideal_robot(fast=False) as robot, program(robot, motion) as (process, driver):
        process.kill()
        until(lambda: not is_there(driver), "the driver leaves")
        assert stands(robot) and not robot.reading().is_script_running


@pytest.mark.parametrize("motion", ["servo", "move"])
def test_the_arm_is_held_while_the_program_is_stopped_and_waits_for_a_person_afterwards(motion):
    with ideal_robot(fast=False) as robot, program(robot, motion) as (process, _):
        process.send_signal(signal.SIGSTOP)
        until(lambda: stands(robot), "the arm is held")
        assert robot.reading().is_script_running, "the driver still feeds the controller"
        process.send_signal(signal.SIGCONT)
        assert process.wait(20) == 1, "an ArmHeld that nobody answers"
        assert stands(robot)


def test_an_interrupted_call_interrupts_the_move():
    with ideal_robot(fast=False) as robot, open_client(robot, move_speed_m_s=0.02) as arm:
        interrupted = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT))
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored, as in a job of a script
        try:
            interrupted.start()
            with pytest.raises(KeyboardInterrupt):
                arm.move_to(by(arm.anchor(), 0.15))
        finally:
            signal.signal(signal.SIGINT, before)
        arm.try_to_hold("interrupted")
        assert stands(robot)
        assert arm.held == "the program was interrupted while the arm moved"
        arm.release()
        arm.servo(by(arm.anchor(), 0.01), PERIOD_S)


def test_a_script_that_the_watchdog_ended_is_uploaded_again_once_a_person_says_so():
    with ideal_robot(fast=False) as robot, open_client(robot) as arm:
        goal = by(arm.anchor(), 0.05)
        arm.servo(goal, PERIOD_S)
        os.kill(driver_of(arm), signal.SIGSTOP)
        until(lambda: not robot.reading().is_script_running, "the controller ends the script")
        where = robot.reading().pose
        os.kill(driver_of(arm), signal.SIGCONT)
        with pytest.raises(ArmHeld):
            for _ in range(3):
                arm.servo(goal, PERIOD_S)
        np.testing.assert_allclose(robot.reading().pose, where, atol=1e-4)
        arm.release()
        arm.servo(by(arm.anchor(), 0.01), PERIOD_S)
        assert arm.held == ""


# --- the wire


@contextmanager
def raw_driver():
    """Yields one end of a driver's wire as a socket, and its process."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(here), there:
        command = [sys.executable, "-m", "actors.real.driver", str(there.fileno())]
        process = subprocess.Popen(command, pass_fds=(there.fileno(),), stderr=subprocess.PIPE, text=True)
        there.close()
        try:
            yield here, process
        finally:
            process.kill()
            process.wait(10)


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (b"\x80\x04", "is no JSON"),
        (b"[1]", "holds a list"),
        (b"[" * 5000, "is no JSON"),
        (b'"' + b"x" * LIMIT_BYTES + b'"', "more than 16384 bytes"),
    ],
)
def test_what_is_no_message_ends_the_driver_with_a_word(packet, words):
    with raw_driver() as (wire, process):
        wire.send(packet)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 2 and words in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    "call",
    [
        {"op": "dance"},
        {"op": ["servo"]},
        {"op": "servo", "pose": [1, 2], "period_s": 0.1},
        {"op": "servo", "pose": "abcdef", "period_s": 0.1},
        {"op": "servo", "pose": [0] * 6, "period_s": -1},
        {"op": "servo", "pose": [0] * 6, "period_s": float("nan")},
        {"op": "rest", "seconds": 1e9},
        {"op": "move_to"},
    ],
)
def test_a_call_that_makes_no_sense_ends_the_driver_and_moves_nothing(robot, call):
    with raw_driver() as (wire, process):
        connect = {"op": "connect", "call": 1, "armed": True, "arm": {"host": robot.host}}
        box = {"x": BOX.x, "y": BOX.y, "z": BOX.z}
        wire.send(json.dumps(connect | {"box": box}).encode())
        assert "error" not in json.loads(wire.recv(LIMIT_BYTES))
        before = robot.reading().pose
        wire.send(json.dumps(call | {"call": 2}).encode())
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 2 and "Traceback" not in errors
        np.testing.assert_array_equal(robot.reading().pose, before)


def test_wrong_settings_are_answered():
    with raw_driver() as (wire, _):
        wire.send(json.dumps({"op": "connect", "call": 1, "arm": {"gain": 1.0}}).encode())
        assert json.loads(wire.recv(LIMIT_BYTES))["error"] == "InputError"


def test_a_wire_tells_that_the_other_side_has_left():
    wire, there = Wire.pair()
    there.send(b'{"call": 1}')
    there.close()
    assert wire.receive(1.0) == {"call": 1}
    with pytest.raises(ClosedError):
        wire.receive(1.0)
    with pytest.raises(ClosedError):
        wire.send({})


# --- one program per arm


def test_the_lock_of_an_arm_is_free_again_when_its_owner_is_killed(tmp_path):
    code = "import sys, time, pathlib; from actors.real.driver.owner import Owner\n"
    code += "Owner('127.0.0.1', pid=1, folder=pathlib.Path(sys.argv[1])); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(InputError, match=rf"driven by process 1 on {socket.gethostname()} since"):
        Owner("localhost", pid=2, folder=tmp_path, patience_s=0.0)
    Owner("127.0.0.2", pid=2, folder=tmp_path, patience_s=0.0).close()
    process.kill()
    process.wait(10)
    Owner("127.0.0.1", pid=2, folder=tmp_path, patience_s=0.0).close()


def test_a_runtime_folder_that_others_can_enter_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with closing(Owner("127.0.0.1", pid=1)):
        assert (tmp_path / "twinrl").stat().st_mode & 0o777 == 0o700
    (tmp_path / "twinrl").chmod(0o755)
    with pytest.raises(InputError, match="mode 0700"):
        Owner("127.0.0.1", pid=1)
