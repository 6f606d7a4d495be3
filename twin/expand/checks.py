"""Whether a tool path can be driven: inverse kinematics, joint limits, work box, collisions, length of an episode."""

from collections.abc import Mapping

import numpy as np

from protos.schema import F64
from twin.camera import pose_of
from twin.expand.clearance import Clearance
from twin.expand.path import ToolPath, angle_between
from twin.expand.planner import METRES_PER_RAD, RESOLUTION_M, Check
from twin.expand.reasons import Reason
from twin.expand.settings import ExpansionSettings
from twin.expand.timing import evenly
from twin.kinematics import Kinematics
from twin.randomize import Domain
from twin.robots import Robot
from twin.tasks import Task

REACH_M, REACH_RAD = 0.001, 0.01
"""Largest miss of inverse kinematics."""
OVERLAP_M = 0.001
"""Contact of rigid bodies is soft in the physics: overlaps up to this are touches."""
BOX_SLACK_M = 0.004
"""The twin holds commands to the work box; a path may ask for this much more."""
LIMIT_RAD = 1e-3
"""A joint this near to the end of its range is at its limit."""
ITERATIONS = 20


class PathChecks:
    """Checks paths of one task's tool."""

    def __init__(self, robot: Robot, task: Task, domain: Domain, settings: ExpansionSettings) -> None:
        self._task, self._settings = task, settings
        self._world, self._kinematics = Clearance(robot, task, domain), Kinematics(robot)
        self._range: F64 = np.array([link.range for link in robot.links])  # (joints, 2) rad

    def reason(self, path: ToolPath, poses: Mapping[str, F64]) -> Reason | None:
        """What stands against a whole path, grasps and all, that starts with bodies at `poses`; None when nothing does.

        Bodies are obstacles to the arm where they are at first; fingers may touch them, and only must not enter the
        table.
        """
        box = self._task.work_box
        low, high = np.array([(axis[0], axis[1]) for axis in (box.x, box.y, box.z)]).T
        if (path.positions < low - BOX_SLACK_M).any() or (path.positions > high + BOX_SLACK_M).any():
            return Reason.WORK_BOX
        if len(path) > self._task.max_steps:
            return Reason.TOO_LONG
        return self.collision(path, poses)

    def collision(self, path: ToolPath, poses: Mapping[str, F64]) -> Reason | None:
        """As `reason`, for reach, joint limits and collisions alone."""
        self._world.place(poses)
        near = self.joints(path.pose(0))
        for position, rotation, closed in zip(path.positions, path.rotations, path.closed, strict=True):
            joints, reached = self._solved(position, rotation, near)
            if not reached:
                return Reason.JOINT_LIMIT if self._at_limit(joints) else Reason.REACH
            self._world.move(joints, 0.5 if closed else 1.0)
            if self._world.of_fingers((), 0.0) < -OVERLAP_M:
                return Reason.COLLISION
            if self._world.of_arm(self._task.fixed_bodies, 0.0) < -OVERLAP_M:
                return Reason.COLLISION
            near = joints
        return None

    def is_free(self, path: ToolPath, poses: Mapping[str, F64], carried: Mapping[str, F64]) -> bool:
        """Whether a free motion keeps its distance. `carried` maps the body that is held to tcp_from_body (4, 4)."""
        check = self.pose_check(poses, carried)
        near: F64 | None = self.joints(path.pose(0))
        dense = evenly(path, (RESOLUTION_M, RESOLUTION_M / METRES_PER_RAD), 1.0)
        for position, rotation in zip(dense.positions, dense.rotations, strict=True):
            near = check(position, rotation, near) if near is not None else None
        return near is not None

    def pose_check(self, poses: Mapping[str, F64], carried: Mapping[str, F64]) -> Check:
        """A check of single poses for the planner, with bodies at `poses`."""
        margin, bodies = self._settings.clearance_m, [name for name in self._task.bodies if name not in carried]
        self._world.place(poses)

        def check(position: F64, rotation: F64, near: F64) -> F64 | None:
            joints, reached = self._solved(position, rotation, near)
            if not reached:
                return None
            for name, tcp_from_body in carried.items():
                self._world.place({name: pose_of(position, rotation) @ tcp_from_body})
            self._world.move(joints, 0.5 if carried else 1.0)
            gaps = [self._world.of_arm(bodies, margin), self._world.of_fingers(bodies, margin)]
            gaps += [self._world.of_held(name, bodies, margin) for name in carried]
            return joints if min(gaps) >= margin else None

        return check

    def joints(self, pose: F64) -> F64:
        """Joint angles (joints,) for a tool pose (4, 4), searched from the home posture, however well they reach it."""
        near = self._kinematics.start_joints(pose[:3, 3])
        return self._kinematics.inverse(near, pose[None, :3, 3], pose[None, :3, :3], iterations=ITERATIONS)[0]

    def _solved(self, position: F64, rotation: F64, near: F64) -> tuple[F64, bool]:
        """Joint angles (joints,) and whether they reach the pose."""
        joints = self._kinematics.inverse(near[None], position[None], rotation[None], iterations=ITERATIONS)
        reached, turned = self._kinematics.forward(joints)
        missed_m, missed_rad = np.linalg.norm(reached[0] - position), angle_between(turned[0], rotation)
        return joints[0], bool(missed_m <= REACH_M and missed_rad <= REACH_RAD)

    def _at_limit(self, joints: F64) -> bool:
        return bool((np.abs(self._range - joints[:, None]) < LIMIT_RAD).any())
