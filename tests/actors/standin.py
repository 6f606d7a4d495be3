"""A simulated controller for tests: with an ideal arm in this process, or with physics in a process of its own."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from actors.lab import LAB_PORT, LabClient
from actors.real.arm import ArmSettings
from actors.real.safety import Limits, LimitSettings
from actors.simulated_ur import StandinSettings
from actors.simulated_ur.controller import Controller
from actors.simulated_ur.ports import DASHBOARD_PORT, serve
from actors.simulated_ur.rtde import RTDE_PORT
from protos.errors import InputError
from protos.settings import save_settings
from protos.space import Box
from twin import robots
from twin.kinematics import Kinematics
from twin.scene import synthetic_scene

BOX = Box(x=(-0.70, -0.30), y=(-0.28, 0.28), z=(0.012, 0.24))
"""Work box of an arm under test."""
PERIOD_S = 0.1
SLOW = 0.02
"""Pace of a robot whose time hardly passes between two commands: a stall of this computer is no time for it."""


def free_host() -> str:
    """Returns a loopback address on which nobody listens; skips the test where there is none."""
    for _ in range(20):
        host = f"127.{random.randint(10, 250)}.{random.randint(0, 250)}.{random.randint(2, 250)}"
        try:
            with socket.socket() as probe:
                probe.bind((host, RTDE_PORT))
        except OSError:
            continue
        return host
    pytest.skip("no second loopback address can be bound here: UR ports are fixed, so every robot needs its own")


class IdealWorld:
    """An arm that is where it is told to be, and fingers that follow at once. Refuses what physics would refuse."""

    def __init__(self):
        self.joints = Kinematics(robots.get("ur5e")).start_joints((-0.54, 0.0, 0.16))[0]
        self.joint_velocities = np.zeros(6)
        self.wrench = np.zeros(6)
        self.opening = 1.0
        self.placed = []
        self._target = self.joints.copy()

    def set_joint_targets(self, q):
        assert q.shape == (6,) and np.isfinite(q).all()
        self._target = np.array(q)

    def set_gripper(self, opening):
        assert 0.0 <= opening <= 1.0
        self.opening = opening

    def advance(self, seconds):
        assert 0.0 < seconds <= 0.5
        self.joint_velocities = (self._target - self.joints) / seconds
        self.joints = self._target.copy()

    def place(self, configuration):
        if "cube" not in configuration.poses:
            raise InputError("no cube")
        self.placed.append(configuration)

    def object_pose(self, name):
        return self.placed[-1].poses[name]

    def success(self):
        return self.opening < 0.5  # a task for tests: close the gripper

    def render(self):
        return np.full((64, 64, 3), 7, np.uint8), np.full((64, 64, 3), 9, np.uint8)


class IdealRobot:
    """A controller over an `IdealWorld`, in a process of its own: ur_rtde keeps Python's lock while it connects.

    With a `pace` below 1 the time between two commands passes more slowly, so a stall of this computer counts less.
    """

    def __init__(self, *, fast=True, latency_steps=(0,), gain=(1.0, 1.0), pace=1.0):
        self.host = free_host()
        self._domain = json.dumps({"fast": fast, "latency_steps": latency_steps, "gain": gain, "pace": pace})
        self.start()

    def start(self):
        """Starts the controller, anew after `kill`."""
        self._process = subprocess.Popen([sys.executable, __file__, self.host, self._domain], stderr=subprocess.DEVNULL)
        until(lambda: listens(self.host, LAB_PORT), "the controller listens", seconds=60)
        self.lab = LabClient(self.host)

    def kill(self):
        """Ends the controller at once, as a power failure does."""
        self.lab.close()
        self._process.kill()
        self._process.wait(10)

    def freeze(self):
        """Stops the process: its ports stay open but answer nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)

    def reading(self):
        """Returns what the controller itself says of its arm."""
        import rtde_receive

        receive = rtde_receive.RTDEReceiveInterface(self.host, -1.0, ["actual_TCP_pose", "robot_status_bits"])
        try:
            return SimpleNamespace(
                pose=np.array(receive.getActualTCPPose()), is_script_running=bool(receive.getRobotStatus() & 2)
            )
        finally:
            receive.disconnect()

    def protective_stop(self):
        self.lab.protective_stop()

    @contextmanager
    def unmoved(self, metres=0.002):
        """Checks, at the controller itself, that the tool stays within `metres` of where it is."""
        before = self.lab.tool()
        yield
        moved = float(np.linalg.norm(np.subtract(self.lab.tool(), before)[:3]))
        assert moved <= metres, f"the tool moved {moved * 1e3:.1f} mm"

    def pendant(self, command):
        """Types a command at the pendant, as an operator does; returns its answer."""
        with (
            socket.create_connection((self.host, DASHBOARD_PORT), timeout=5) as wire,
            wire.makefile("rw") as lines,
        ):
            lines.readline()
            lines.write(command + "\n")
            lines.flush()
            return lines.readline().strip()


@contextmanager
def ideal_robot(**settings):
    robot = IdealRobot(**settings)
    try:
        yield robot
    finally:
        robot.kill()


class StandinProcess:
    """`python -m actors.simulated_ur` with physics."""

    def __init__(self, folder, **settings):
        self.host = free_host()
        self.settings = StandinSettings(scene=folder / "scene", host=self.host, **settings)
        synthetic_scene().save(folder / "scene")
        save_settings(self.settings, folder / "standin.json")
        with (folder / "standin.log").open("wb") as log:
            command = [sys.executable, "-m", "actors.simulated_ur", "--settings", str(folder / "standin.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        self._log = folder / "standin.log"
        until(self._is_up, "the stand-in listens", seconds=90)

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def stop(self):
        """Sends SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def _is_up(self):
        assert self.process.poll() is None, self._log.read_text()
        return listens(self.host, LAB_PORT)


@contextmanager
def standin_process(folder, **settings):
    standin = StandinProcess(folder, **settings)
    try:
        yield standin
    finally:
        standin.kill()


def arm_at(kind, host, *, armed=True, released=True, limits=None, **settings):
    """Connects an arm's driver of this kind; its limits are those of the work box."""
    settings = {"hold_after_s": 1.0, "connect_timeout_s": 3.0} | settings
    arm = kind(ArmSettings(host=host, **settings), Limits(BOX, limits or LimitSettings()), armed=armed)
    if released:
        arm.release()
    return arm


def by(pose, *delta):
    """Returns a pose moved by the first numbers of a twist."""
    return pose + np.concatenate([delta, np.zeros(6 - len(delta))])


def start_again(control):
    assert control.reuploadScript()
    until(control.isProgramRunning, "the script runs")


def listens(host, port):
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def until(condition, what, seconds=30.0):
    """Waits for something in another thread or process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


async def _serve_while_the_test_lives(controller, host, parent):
    serving = asyncio.ensure_future(serve(controller, host=host, lab_port=LAB_PORT, objects=("cube", "target")))
    while os.getppid() == parent and not serving.done():
        await asyncio.sleep(0.2)
    serving.cancel()


if __name__ == "__main__":
    domain = json.loads(sys.argv[2])
    pace = domain.pop("pace")
    controller = Controller(IdealWorld(), now=lambda: time.monotonic() * pace, **domain)
    kinematics = controller.kinematics
    kinematics.joints_for(
        kinematics.pose_of(controller.arm.target), near=controller.arm.target
    )  # compiles before it is needed
    asyncio.run(_serve_while_the_test_lives(controller, sys.argv[1], os.getppid()))
