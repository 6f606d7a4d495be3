"""This module is the simulated controller in a thread, spied on, behind a stretch of network that delays.

    driver's process, ur_rtde ──► proxy: 0 to 90 ms late now and then ──► controller ──► every target, as it arrives

What the proxy delays waits for its turn, so that what follows comes in a bunch. The arm behind the controller is where
it is told to be.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from actors.lab import LAB_PORT
from actors.simulated_ur.controller import Controller
from actors.simulated_ur.pendant import Pendant
from actors.simulated_ur.ports import serve
from actors.simulated_ur.rtde import RTDE_PORT
from benchmarks.arm.proxy import forward
from benchmarks.arm.stage import CONTROL_PORTS, free_host, listens, wait_for
from benchmarks.limits.extremes import Target
from benchmarks.limits.postures import KINEMATICS, joints_at, reach
from protos.process import Closing
from protos.schema import F64, U8, Configuration

LATE_S = 0.09
SERVO_LINE, CLEAR = 24, 0
SETTLED_S = 0.2
START_TIMEOUT_S = 30.0


class IdealArm:
    """A world in which the arm is where it is told to be, over a table without objects or cameras."""

    def __init__(self) -> None:
        self.joints = joints_at(np.array([-0.54, 0.0, 0.16]), 0.0)
        self.joint_velocities = np.zeros(6)
        self.wrench = np.zeros(6)
        self.opening = 1.0
        self._target = self.joints.copy()

    def jog(self, joints: F64) -> None:
        """Puts the arm elsewhere, where it stands."""
        self.joints, self._target, self.joint_velocities = joints.copy(), joints.copy(), np.zeros(6)

    def set_joint_targets(self, q: F64) -> None:
        assert q.shape == (6,) and np.isfinite(q).all(), q
        self._target = q.copy()

    def set_gripper(self, opening: float) -> None:
        self.opening = opening

    def advance(self, seconds: float) -> None:
        self.joint_velocities = (self._target - self.joints) / seconds
        self.joints = self._target.copy()

    def place(self, configuration: Configuration) -> None:
        raise NotImplementedError

    def object_pose(self, name: str) -> tuple[float, float, float, float]:
        raise NotImplementedError

    def success(self) -> bool:
        return False

    def render(self) -> tuple[U8, U8]:
        raise NotImplementedError


class SpiedController(Controller):
    """Keeps every servo target with the robot's time of its arrival."""

    def __init__(self, world: IdealArm) -> None:
        super().__init__(world, fast=True)
        self.streams: list[list[Target]] = [[]]
        self.stops = 0

    def receive(self, inputs: Mapping[str, Any]) -> None:
        number = inputs.get("input_int_register_0", CLEAR)
        if number == SERVO_LINE and self.program.running:
            pose = np.array([inputs[f"input_double_register_{i}"] for i in range(6)])
            near = self.streams[-1][-1].joints if self.streams[-1] else self.world.joints
            joints = reach(pose, near)
            slice_s = inputs["input_double_register_8"]
            self.streams[-1].append(Target(self.time_s, slice_s, pose, near if joints is None else joints))
        elif number != CLEAR:
            self.end_stream()
        super().receive(inputs)

    def protective_stop(self, why: str) -> None:
        self.stops += 1
        self.end_stream()
        super().protective_stop(why)

    def end_stream(self) -> None:
        """Begins a new stream."""
        if self.streams[-1]:
            self.streams.append([])


class SpiedRobot(Closing):
    """One controller, its arm and its network, on loopback addresses of its own."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.host, self._inner = free_host(), free_host()
        self._late = random.Random(int(rng.integers(1 << 32)))
        self.late_share = 0.0
        """Share of what travels to or from the controller that is delayed."""
        self._world = IdealArm()
        self._controller = SpiedController(self._world)
        reach(self._controller.kinematics.pose_of(self._world.joints), self._world.joints)  # compiles
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="spied robot", daemon=True)
        self._thread.start()
        wait_for(lambda: listens(self._inner, LAB_PORT), "the controller listens", START_TIMEOUT_S)

    @property
    def streams(self) -> list[list[Target]]:
        """Servo targets as they arrived; a stop ends a stream."""
        return self._controller.streams

    @property
    def stops(self) -> int:
        """Number of protective stops."""
        return self._controller.stops

    def place(self, joints: F64, *, delay_s: float, gain: float) -> None:
        """Jogs the arm to joints (6,), where it stands. This arm follows at once, whatever delay and gain."""

        def jog() -> None:
            self._world.jog(joints)
            self._controller.arm.brake()
            self._controller.end_stream()

        self.late_share = 0.0
        self.stall(SETTLED_S)  # what was delayed arrives first
        self._do(jog)
        self.stall(SETTLED_S)  # the driver hears of it

    def unlock(self) -> None:
        """Ends a protective stop."""
        self._do(lambda: self._controller.set_pendant(Pendant()))

    def stall(self, seconds: float) -> None:
        """Lets time pass."""
        time.sleep(seconds)

    def tool(self) -> F64:
        """Returns the position (3,) of the TCP [m]."""
        return KINEMATICS.forward(self._world.joints[None])[0][0]

    def close(self) -> None:
        """Ends controller and network."""
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(10.0)

    def _do(self, act: Callable[[], None]) -> None:
        async def run() -> None:
            act()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._serving = self._loop.create_task(self._serve())
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serving)
        self._loop.close()

    async def _serve(self) -> None:
        await forward(self.host, self._inner, CONTROL_PORTS, self._delay)
        await serve(self._controller, host=self._inner, lab_port=LAB_PORT, objects=())

    async def _delay(self, port: int) -> None:
        if port == RTDE_PORT and self._late.random() < self.late_share:
            await asyncio.sleep(self._late.uniform(0, LATE_S))
