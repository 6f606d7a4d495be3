"""The gripper's client, against the simulated URCap and against wires that misbehave."""

import socket
import threading

import pytest
from standin import free_host, ideal_robot, until

from actors.real.gripper import PORT, GripperSettings, RobotiqGripper
from protos.errors import ArmStopped, InputError, Unreachable


def test_opens_closes_and_reads():
    with ideal_robot() as robot:
        gripper = RobotiqGripper(robot.host, GripperSettings())
        gripper.activate()
        gripper.command(is_open=False)
        assert not gripper.is_commanded_open
        until(lambda: gripper.opening() == 0.0, "the fingers close")
        gripper.command(is_open=True)
        until(lambda: gripper.opening() == 1.0, "the fingers open")
        robot.kill()
        with pytest.raises(ArmStopped, match="link lost"):
            gripper.opening()


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def test_the_fingers_turn_round_at_most_once_per_interval():
    clock = Clock()
    with ideal_robot() as robot:
        gripper = RobotiqGripper(robot.host, GripperSettings(least_interval_s=0.375), clock=clock)
        gripper.activate()
        turned = []
        for step in range(20):  # a policy that wavers at every step
            clock.now_s = 0.125 * step
            before = gripper.is_commanded_open
            gripper.follow(is_open=not before)
            if gripper.is_commanded_open != before:
                turned.append(step)
        assert turned == [0, 3, 6, 9, 12, 15, 18] and gripper.refused == 13
        gripper.command(is_open=not gripper.is_commanded_open)
        assert gripper.is_commanded_open, "what the operator's reset commands is not a wish"
        gripper.close()


def test_a_fault_refuses_activation_commands_and_within_ten_reads_the_opening():
    with ideal_robot() as robot:
        gripper = RobotiqGripper(robot.host, GripperSettings())
        gripper.activate()
        gripper.opening()
        robot.lab.pendant(gripper_fault=14)
        with pytest.raises(ArmStopped, match="fault 14: its current is too high: remove what blocks"):
            gripper.command(is_open=False)
        assert gripper.is_commanded_open, "nothing was commanded"
        with pytest.raises(ArmStopped, match="fault 14"):
            gripper.activate()
        with pytest.raises(ArmStopped, match="fault 14"):
            for _ in range(10):
                gripper.opening()
        gripper.close()


def test_nobody_there():
    with pytest.raises(Unreachable, match=r"gripper at .*deadline 0.5 s.*URCap"):
        RobotiqGripper(free_host(), GripperSettings(timeout_s=0.5))


@pytest.mark.parametrize(
    ("answer", "call", "words"),
    [
        (b"?\n", lambda gripper: gripper.opening(), "answered"),
        (b"POS x\n", lambda gripper: gripper.opening(), "answered"),
        (b"OBJ 3\n", lambda gripper: gripper.opening(), "answered"),
        (b"FLT 0\nnak\n", lambda gripper: gripper.command(is_open=True), "answered 'nak'"),
        (b"FLT 0\nSTA 0\nack", lambda gripper: gripper.activate(), "answered"),
        (b"FLT 9\n", lambda gripper: gripper.opening(), "fault 9: no communication"),
        (b"FLT 77\n", lambda gripper: gripper.command(is_open=True), "fault 77: see the gripper's manual"),
        (b"", lambda gripper: gripper.opening(), "link lost"),
    ],
)
def test_strange_answers_stop_the_arm(answer, call, words):
    host = free_host()
    server = socket.create_server((host, PORT))

    def serve():
        connection, _ = server.accept()
        with connection:
            connection.recv(256)
            connection.sendall(answer)
            connection.recv(256)

    threading.Thread(target=serve, daemon=True).start()
    gripper = RobotiqGripper(host, GripperSettings(timeout_s=0.5, activation_timeout_s=0.5))
    with pytest.raises(ArmStopped, match=words):
        call(gripper)
    gripper.close()
    server.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"force": 256},
        {"speed": -1},
        {"open_at": 230, "closed_at": 3},
        {"least_interval_s": 0.0},
        {"least_interval_s": float("nan")},
        {"timeout_s": float("inf")},
        {"activation_timeout_s": -1.0},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(InputError):
        GripperSettings(**wrong)
