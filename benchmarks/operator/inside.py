"""This module drives the stand-in's world inside one process: the controller and the limits, without ports between.

    RealEnvironment ─► InsideArm ─► limits, streamed targets ─► Controller ─► SimulatedArm ─► ArmWorld
                   └─► InsideGripper, InsideTable (cameras, hands, eyes) ──────────┘

What moves the arm is what moves it in `python -m actors.simulated_ur` and in its driver; RTDE, the dashboard and the
watchdogs are left out. Robot time passes by commands alone, so a world's episodes are the same on every machine.
"""

import math

import numpy as np

from actors.human import ScriptedOperator, TakeoverSettings
from actors.real.arm import SHORTEST_SLICE_S, TURN_ARM_M, ArmSettings
from actors.real.gripper import GripperSettings
from actors.real.link import ArmState
from actors.real.robot import RealEnvironment
from actors.real.safety import Limits, LimitSettings, angle_between
from actors.real.stream import StreamLimiter
from actors.simulated_ur.controller import Controller
from actors.simulated_ur.kinematics import Line
from actors.simulated_ur.motion import Move
from protos.schema import CONTROL_HZ, F64, U8, Configuration, Outcome, Schema
from twin.labs import Lab
from twin.scene import Scene
from twin.tasks import Task
from twin.world import ArmWorld


class InsideArm:
    """Satisfies `actors.real.driver.client.Arm` with the controller in this process."""

    def __init__(self, controller: Controller, limits: Limits, stream_hz: float) -> None:
        self.limits, self.settings = limits, ArmSettings(stream_hz=stream_hz)
        self.holds, self.held = 0, ""
        self._controller = controller
        self._limiter = StreamLimiter(limits, self.settings.model, self.settings.stream_hz)
        self._commanded = self.observe().pose

    @property
    def time_s(self) -> float:
        return self._controller.time_s

    def observe(self) -> ArmState:
        world, kinematics = self._controller.world, self._controller.kinematics
        return ArmState(
            t=self.time_s,
            joints=world.joints.copy(),
            pose=kinematics.pose_of(world.joints),
            velocity=kinematics.velocity_of(world.joints, world.joint_velocities),
            wrench=np.array(world.wrench),
        )

    def can_be_commanded(self) -> bool:
        return True

    def anchor(self) -> F64:
        return self._commanded.copy()

    def servo(self, target: F64, period_s: float, *, is_gentle: bool = False) -> F64:
        """Streams targets for one control period, as `actors.real.arm.UrArm.servo` does."""
        state, begin_s = self.observe(), self.time_s
        goal = self.limits.clip(target, commanded=self._commanded, measured=state.pose, period_s=period_s)
        if self._limiter.pose is None:
            self._limiter.start(self._commanded, joints=state.joints, measured=state.pose)
        self._commanded, is_short = goal, False
        while (left_s := begin_s + period_s - self.time_s) > SHORTEST_SLICE_S:
            slice_s = left_s / math.ceil(left_s * self.settings.stream_hz - 1e-3)
            arrives_s = begin_s + self.settings.blend * period_s - self.time_s
            pose = self._limiter.next(goal, now_s=self.time_s, slice_s=slice_s, left_s=arrives_s, is_gentle=is_gentle)
            is_short = is_short or self._limiter.is_short
            arm = self._controller.arm
            arm.servo(self._controller.kinematics.joints_for(pose, near=arm.target), slice_s)
        if is_short and self._limiter.pose is not None:
            self._commanded = self._limiter.pose
        return self._commanded.copy()

    def rest(self, seconds: float) -> None:
        end_s = self.time_s + seconds
        while self.time_s < end_s - SHORTEST_SLICE_S:
            self.servo(self.anchor(), min(0.1, max(end_s - self.time_s, 0.02)))

    def move_to(self, pose: F64) -> None:
        arm, settings = self._controller.arm, self.settings
        self.hold("before a move")
        path = Line(self._controller.kinematics, arm.target, pose)
        length = max(path.length_m, TURN_ARM_M * angle_between(self.observe().pose, pose))
        arm.begin(
            Move(
                path.joints, length=length, speed=settings.move_speed_m_s, acceleration=settings.move_acceleration_m_s2
            )
        )
        arm.run_to_end()
        self._commanded = pose.copy()

    def hold(self, why: str) -> None:
        self._limiter.forget()
        self._controller.arm.brake()
        self._commanded = self.observe().pose

    def try_to_hold(self, why: str) -> None:
        self.hold(why)

    def release(self) -> None:
        """Does nothing: it is never held."""

    def close(self) -> None:
        """Does nothing: there is nothing to disconnect."""


class InsideGripper:
    """Fingers that turn round no more often than `RobotiqGripper` lets them."""

    def __init__(self, controller: Controller) -> None:
        self._controller, self._least_s = controller, GripperSettings().least_interval_s
        self._turned_s = -math.inf
        self.is_commanded_open = True

    def activate(self) -> None:
        """Does nothing: it is always on."""

    def command(self, *, is_open: bool) -> None:
        if is_open != self.is_commanded_open:
            self._turned_s = self._controller.time_s
        self.is_commanded_open = is_open
        self._controller.command_gripper(float(is_open))

    def follow(self, *, is_open: bool) -> None:
        if is_open != self.is_commanded_open and self._controller.time_s - self._turned_s >= self._least_s:
            self.command(is_open=is_open)

    def opening(self) -> float:
        return self._controller.opening


class InsideTable:
    """Cameras, hands and eyes at the table. Without `sees` its images are black, which costs nothing."""

    def __init__(self, controller: Controller, task: Task, schema: Schema, *, sees: bool) -> None:
        self._controller, self._task, self._sees = controller, task, sees
        self._black = tuple(np.zeros((px, px, 3), np.uint8) for px in (schema.side_px, schema.wrist_px))

    def read(self) -> tuple[U8, U8]:
        side, wrist = self._controller.render() if self._sees else self._black
        return side, wrist

    def go_on(self, reason: str) -> None:
        """Does nothing: nobody is near."""

    def place(self, configuration: Configuration) -> None:
        self._controller.place(configuration)

    def judge(self) -> Outcome:
        return Outcome.SUCCESS if self._controller.world.success() else Outcome.RUNNING

    def objects(self) -> dict[str, tuple[float, float, float, float]]:
        return {name: self._controller.world.object_pose(name) for name in self._task.bodies}

    def close(self) -> None:
        """Does nothing: it belongs to the controller."""


class InsideRobot:
    """One arm at its table in a lab, for one process."""

    def __init__(
        self,
        scene: Scene,
        task: Task,
        lab: Lab,
        schema: Schema,
        *,
        seed: int,
        disturbance: float = 0.0,
        sees: bool = True,
        stream_hz: float = CONTROL_HZ,
    ) -> None:
        """`stream_hz` is by default as the demo drives its stand-in."""
        world = ArmWorld(scene, task, lab, schema=schema, seed=seed)
        controller = Controller(
            world,
            fast=True,
            robot=scene.robot,
            latency_steps=lab.domain.latency_steps,
            gain=lab.domain.gain,
            drive=lab.drive,
            seed=seed,
            now=lambda: 0.0,
        )
        self.arm = InsideArm(controller, Limits(task.work_box, LimitSettings()), stream_hz)
        self.task, self.table = task, InsideTable(controller, task, schema, sees=sees)
        self.environment = RealEnvironment(
            self.arm, InsideGripper(controller), self.table, self.table, task, disturbance=disturbance, seed=seed
        )

    def operator(self, settings: TakeoverSettings) -> ScriptedOperator:
        """Returns an operator at this table."""
        return ScriptedOperator(self.task, self.environment, self.table, settings)
