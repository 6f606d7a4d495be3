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


def test_nobody_there():
    with pytest.raises(Unreachable, match=r"gripper at .*deadline 0.5 s.*URCap"):
        RobotiqGripper(free_host(), GripperSettings(timeout_s=0.5))


@pytest.mark.parametrize(
    ("answer", "call", "words"),
    [
        (b"?\n", lambda gripper: gripper.opening(), "answered"),
        (b"POS x\n", lambda gripper: gripper.opening(), "answered"),
        (b"OBJ 3\n", lambda gripper: gripper.opening(), "answered"),
        (b"nak\n", lambda gripper: gripper.command(is_open=True), "answered 'nak'"),
        (b"STA 0\nack", lambda gripper: gripper.activate(), "answered"),
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


@pytest.mark.parametrize("wrong", [{"force": 256}, {"speed": -1}, {"open_at": 230, "closed_at": 3}])
def test_settings_are_checked(wrong):
    with pytest.raises(InputError):
        GripperSettings(**wrong)
