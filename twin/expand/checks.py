"""This module checks whether a tool path can be driven: reach, joint limits, work box, collisions, episode length."""

from collections.abc import Mapping, Sequence
from enum import Enum

import numpy as np

from protos.schema import F64
from twin.camera import pose_of
from twin.expand.path import ToolPath, angle_between, evenly
from twin.expand.planner import METRES_PER_RAD, RESOLUTION_M, Check
from twin.randomize import Domain
from twin.robots import FINGERS, Robot
from twin.rotations import quaternion_from_matrix
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


class Reason(Enum):
    """A reason says why a twin demonstration is not made, or not kept; members are in the order of the checks."""

    TURN = "turn"
    """The tool would have to turn, and the task's actions do not."""
    NO_PATH = "no path"
    """The search found no collision-free way between two contacts."""
    WORK_BOX = "work box"
    """The path leaves the box in which the tool may be commanded."""
    REACH = "reach"
    """Inverse kinematics misses a pose of the path."""
    JOINT_LIMIT = "joint limit"
    COLLISION = "collision"
    """The arm meets the table or a body, or a finger meets the table."""
    TOO_LONG = "too long"
    """The path takes more control steps than an episode has."""
    LEASH = "leash"
    """The arm stayed so far behind that the command was held back."""
    NOT_DONE = "not done"
    """The twin ran it, and the task was not done."""


class Clearance:
    """Measures how far one robot, and what it holds, is from a task's bodies, by MuJoCo's distances between geoms.

    The arm's geoms collide with nothing in the physics; here they count. The base and the first link stand on the table
    and are left out. Of the table and the task's bodies those geoms are obstacles that collide in the physics. Not safe
    for use from several threads at once.
    """

    def __init__(self, robot: Robot, task: Task, domain: Domain) -> None:
        import mujoco

        from twin.physics import build_model

        self._mujoco = mujoco  # loaded here: whoever reads the settings of an expansion does without it
        self._model = model = build_model(robot, task, domain.middle)
        self._data = mujoco.MjData(model)
        self._task, self._travel_m = task, robot.gripper.travel_m
        self._arm = [int(model.joint(name).qposadr[0]) for name in robot.joints]
        self._hand = [int(model.joint(name).qposadr[0]) for name in FINGERS]
        fingers = {model.body(name).id for name in FINGERS}
        first = model.body(robot.joints[0])
        standing = {first.id, int(first.parentid[0])}
        root = int(model.body(FINGERS[0]).rootid[0])
        of_body = model.geom_bodyid
        ours = [geom for geom in range(model.ngeom) if model.body_rootid[of_body[geom]] == root]
        self._fingers = [geom for geom in ours if of_body[geom] in fingers]
        self._links = [geom for geom in ours if of_body[geom] not in fingers | standing]
        collides = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
        self._geoms = {
            name: [geom for geom in range(model.ngeom) if of_body[geom] == model.body(name).id and collides[geom]]
            for name in task.bodies
        }
        self._table = [geom for geom in range(model.ngeom) if of_body[geom] == 0 and collides[geom]]

    def place(self, poses: Mapping[str, F64]) -> None:
        """Puts bodies to base_from_body (4, 4)."""
        for name, pose in poses.items():
            quaternion = quaternion_from_matrix(pose[:3, :3])
            if name in self._task.free_bodies:
                at = int(self._model.joint(name).qposadr[0])
                self._data.qpos[at : at + 3], self._data.qpos[at + 3 : at + 7] = pose[:3, 3], quaternion
            else:
                mocap = int(self._model.body(name).mocapid[0])
                self._data.mocap_pos[mocap], self._data.mocap_quat[mocap] = pose[:3, 3], quaternion

    def move(self, joints: F64, opening: float) -> None:
        """Moves the arm to joint angles (joints,) [rad] and the gripper to an opening from 0 to 1."""
        self._data.qpos[self._arm] = joints
        self._data.qpos[self._hand] = [-opening * self._travel_m, opening * self._travel_m]
        self._mujoco.mj_kinematics(self._model, self._data)

    def of_arm(self, bodies: Sequence[str], limit_m: float) -> float:
        """Measures links and palm to table and bodies [m], negative where they overlap; at most `limit_m`."""
        return self._least(self._links, self._table + self._of(bodies), limit_m)

    def of_fingers(self, bodies: Sequence[str], limit_m: float) -> float:
        """Measures fingers to table and bodies [m]."""
        return self._least(self._fingers, self._table + self._of(bodies), limit_m)

    def of_held(self, held: str, bodies: Sequence[str], limit_m: float) -> float:
        """Measures a body in the gripper to table and other bodies [m]."""
        return self._least(self._geoms[held], self._table + self._of([b for b in bodies if b != held]), limit_m)

    def _of(self, bodies: Sequence[str]) -> list[int]:
        return [geom for name in bodies for geom in self._geoms[name]]

    def _least(self, ours: Sequence[int], theirs: Sequence[int], limit_m: float) -> float:
        """Returns the least distance of any pair; pairs whose bounding spheres are far apart are not measured."""
        centre, radius = self._data.geom_xpos, self._model.geom_rbound
        apart = np.linalg.norm(centre[ours][:, None] - centre[theirs], axis=-1)
        near = apart - radius[ours][:, None] - radius[theirs] < limit_m
        least, ends = limit_m, np.zeros(6)
        for i, j in np.argwhere(near):
            least = self._mujoco.mj_geomDistance(self._model, self._data, ours[i], theirs[j], least, ends)
        return float(least)


class PathChecks:
    """Checks decide whether paths of one task's tool can be driven."""

    def __init__(self, robot: Robot, task: Task, domain: Domain, clearance_m: float) -> None:
        self._task, self._clearance_m = task, clearance_m
        from twin.kinematics import Kinematics

        self._world, self._kinematics = Clearance(robot, task, domain), Kinematics(robot)
        self._range: F64 = np.array([link.range for link in robot.links])  # (joints, 2) rad

    def reason(self, path: ToolPath, poses: Mapping[str, F64]) -> Reason | None:
        """Says what rules out a whole path, grasps and all, that starts with bodies at `poses`; None when nothing does.

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
        """Checks like `reason`, but for reach, joint limits and collisions alone."""
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
        """Tells whether a free motion keeps its distance. `carried` maps the held body to tcp_from_body (4, 4)."""
        check = self.pose_check(poses, carried)
        near: F64 | None = self.joints(path.pose(0))
        dense = evenly(path, (RESOLUTION_M, RESOLUTION_M / METRES_PER_RAD), 1.0)
        for position, rotation in zip(dense.positions, dense.rotations, strict=True):
            near = check(position, rotation, near) if near is not None else None
        return near is not None

    def pose_check(self, poses: Mapping[str, F64], carried: Mapping[str, F64]) -> Check:
        """Returns a check of single poses for the planner, with bodies at `poses`."""
        margin, bodies = self._clearance_m, [name for name in self._task.bodies if name not in carried]
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
        """Returns joint angles (joints,) nearest to a tool pose (4, 4), searched from the home posture."""
        near = self._kinematics.start_joints(pose[:3, 3])
        return self._kinematics.inverse(near, pose[None, :3, 3], pose[None, :3, :3], iterations=ITERATIONS)[0]

    def _solved(self, position: F64, rotation: F64, near: F64) -> tuple[F64, bool]:
        """Returns joint angles (joints,) and whether they reach the pose."""
        joints = self._kinematics.inverse(near[None], position[None], rotation[None], iterations=ITERATIONS)
        reached, turned = self._kinematics.forward(joints)
        missed_m, missed_rad = np.linalg.norm(reached[0] - position), angle_between(turned[0], rotation)
        return joints[0], bool(missed_m <= REACH_M and missed_rad <= REACH_RAD)

    def _at_limit(self, joints: F64) -> bool:
        return bool((np.abs(self._range - joints[:, None]) < LIMIT_RAD).any())
