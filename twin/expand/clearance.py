"""How far the robot, and what it holds, is from everything else: MuJoCo's distances between geoms, without dynamics.

The arm's geoms collide with nothing in the physics; here they count. The base and the first link stand on the table and
are left out. Of the table and the task's bodies those geoms are obstacles that collide in the physics.
"""

from collections.abc import Mapping, Sequence

import mujoco
import numpy as np

from protos.schema import F64
from twin.physics import build_model
from twin.randomize import Domain
from twin.robots import FINGERS, Robot
from twin.rotations import quaternion_from_matrix
from twin.tasks import Task

Pairs = list[tuple[int, int]]


class Clearance:
    """One robot among a task's bodies. Not safe for use from several threads at once."""

    def __init__(self, robot: Robot, task: Task, domain: Domain) -> None:
        self._model = model = build_model(robot, task, domain)
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
        """The arm to joint angles (joints,) [rad], the gripper to an opening from 0 to 1."""
        self._data.qpos[self._arm] = joints
        self._data.qpos[self._hand] = [-opening * self._travel_m, opening * self._travel_m]
        mujoco.mj_kinematics(self._model, self._data)

    def of_arm(self, bodies: Sequence[str], limit_m: float) -> float:
        """Links and palm to table and bodies [m], negative where they overlap; at most `limit_m`."""
        return self._least(self._links, self._table + self._of(bodies), limit_m)

    def of_fingers(self, bodies: Sequence[str], limit_m: float) -> float:
        """Fingers to table and bodies [m]."""
        return self._least(self._fingers, self._table + self._of(bodies), limit_m)

    def of_held(self, held: str, bodies: Sequence[str], limit_m: float) -> float:
        """A body in the gripper to table and other bodies [m]."""
        return self._least(self._geoms[held], self._table + self._of([b for b in bodies if b != held]), limit_m)

    def _of(self, bodies: Sequence[str]) -> list[int]:
        return [geom for name in bodies for geom in self._geoms[name]]

    def _least(self, ours: Sequence[int], theirs: Sequence[int], limit_m: float) -> float:
        """The least distance of any pair; pairs whose bounding spheres are far apart are not measured."""
        centre, radius = self._data.geom_xpos, self._model.geom_rbound
        apart = np.linalg.norm(centre[ours][:, None] - centre[theirs], axis=-1)
        near = apart - radius[ours][:, None] - radius[theirs] < limit_m
        least, ends = limit_m, np.zeros(6)
        for i, j in np.argwhere(near):
            least = mujoco.mj_geomDistance(self._model, self._data, ours[i], theirs[j], least, ends)
        return float(least)
