"""This module steps n arms with their tables in Isaac Gym (Preview 4): PhysX, on the GPU where there is one.

    reset, place ─► root and DOF states ─┐ once, before the next step
    command ──────► DOF position targets ┴─► simulate × steps ─► body and DOF states, force sensors ─► arrays here

Isaac Gym cannot be installed where this project is tested: NVIDIA hands it out for download, built for Python 3.6 to
3.8. The adapter's calls are checked against the types of isaacgym-stubs, its URDF files against MuJoCo, and the order
of its calls against a fake; the conformance suite runs it wherever `import isaacgym` works. PhysX has never run behind
it in CI, so take its first run as a test.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError
from protos.schema import F64
from twin.physics.interface import Physics
from twin.physics.isaac_world import ROBOT, SENSED, build
from twin.physics.urdf import subtree
from twin.randomize import Conditions, Domain
from twin.robots import FINGERS, Robot
from twin.rotations import about_z, matrix_from_quaternion, quaternion_from_matrix
from twin.tasks import Task

if TYPE_CHECKING:
    from isaacgym import gymapi


class IsaacPhysics(Physics):
    """n environments of one simulation hold the n worlds."""

    def __init__(self, robot: Robot, task: Task, domain: Domain, n: int, threads: int = 1) -> None:
        _require_isaacgym()
        super().__init__(robot, task, domain, n)
        if self._varies:
            values = ", ".join(f"{name}={getattr(domain, name)}" for name in self._varies)
            raise InputError(f"physics 'isaac': {values}: one value for all episodes needed here; or choose mujoco")
        self._described = mujoco.MjData(self.model)
        self._world = build(robot, task, self.model, n, threads)
        self._acquire()
        arm = [self._world.joints.index(name) for name in robot.joints]
        self._order = np.array(arm + [self._world.joints.index(name) for name in FINGERS])
        self._q, self._rates = np.zeros((2, n, len(self._order)))
        self._wrench = np.zeros((n, 6))
        self.body_positions = np.zeros((n, self.model.nbody, 3))
        self.body_rotations = np.tile(np.eye(3).ravel(), (n, self.model.nbody, 1))
        self._moved: set[int] = set()
        self._sent: list[Any] = []
        self._broken = np.zeros(n, bool)
        self._restarted = np.zeros(n, bool)

    def equip(self, slot: int, conditions: Conditions) -> None:
        """Does nothing: what a model holds is the same in every episode here."""

    def reset(self, slots: NDArray[np.intp], joints: F64, poses: Mapping[str, F64]) -> None:
        """Notes the states, which are written before the next step; the outputs show them at once."""
        start = np.concatenate([joints, np.full((len(slots), 2), self.robot.gripper.travel_m)], axis=1)
        self._q[slots], self._rates[slots], self._wrench[slots] = start, 0.0, 0.0
        self._targets[np.ix_(slots, self._order)] = start
        self._broken[slots] = False
        self._restarted[slots] = True
        for slot in slots:
            self._show(int(slot), ROBOT, {})
        self.place(slots, poses)

    def place(self, slots: NDArray[np.intp], poses: Mapping[str, F64]) -> None:
        """Puts bodies to their poses. One that is not finite breaks its slot; it never reaches PhysX."""
        for name, rows in poses.items():
            for slot, pose in zip(slots, rows, strict=True):
                if np.isfinite(pose).all():
                    self._put(int(slot), name, pose)
                else:
                    self._broken[slot] = True
                    self.body_positions[slot, subtree(self.model, name)] = np.nan

    def command(self, joints: F64, opening: NDArray[np.floating]) -> None:
        """Sets the targets of the drives, sent with the next step."""
        travel = np.clip(opening, 0, 1)[:, None] * self.robot.gripper.travel_m
        self._targets[:, self._order] = np.concatenate([joints, np.tile(travel, (1, 2))], axis=1)

    def step(self, steps: int) -> None:
        """Sends what was written, lets time pass, reads everything back."""
        gym, sim = self._world.gym, self._world.sim
        self._send()
        for _ in range(steps):
            gym.simulate(sim)
            if not self._world.on_gpu:
                gym.fetch_results(sim, True)
        self._read()

    @property
    def joints(self) -> F64:
        return self._q[:, :-2].copy()

    @property
    def joint_velocities(self) -> F64:
        return self._rates[:, :-2].copy()

    @property
    def tool_position(self) -> F64:
        return self.body_position("gripper") + self.tool_rotation[:, :, 2] * self.robot.gripper.tcp_m

    @property
    def tool_rotation(self) -> F64:
        return self.body_rotation("gripper")

    @property
    def opening(self) -> F64:
        return np.clip(self._q[:, -2:].sum(1) / self.robot.gripper.stroke_m, 0, 1)

    @property
    def wrench(self) -> F64:
        """Wrench (n, 6): the force sensors of palm and fingers, which feel contacts alone, summed up at the TCP."""
        return self._wrench

    def close(self) -> None:
        """Ends the simulation."""
        self._world.gym.destroy_sim(self._world.sim)

    def _acquire(self) -> None:
        from isaacgym import gymtorch

        gym, sim = self._world.gym, self._world.sim
        self._root = gymtorch.wrap_tensor(gym.acquire_actor_root_state_tensor(sim))
        self._dofs = gymtorch.wrap_tensor(gym.acquire_dof_state_tensor(sim))
        self._rigid = gymtorch.wrap_tensor(gym.acquire_rigid_body_state_tensor(sim))
        self._sensors = gymtorch.wrap_tensor(gym.acquire_force_sensor_tensor(sim))
        self._refresh()
        self._targets = _array(self._dofs).reshape(self.n, -1, 2)[:, :, 0].copy()

    def _refresh(self) -> None:
        gym, sim = self._world.gym, self._world.sim
        gym.refresh_actor_root_state_tensor(sim)
        gym.refresh_dof_state_tensor(sim)
        gym.refresh_rigid_body_state_tensor(sim)
        gym.refresh_force_sensor_tensor(sim)

    def _put(self, slot: int, name: str, pose: F64) -> None:
        """Writes one body's root state, at rest, and shows it."""
        quaternion = quaternion_from_matrix(about_z(pose[3]))
        row = int(self._world.actors[name][slot])
        state = np.concatenate([pose[:3], np.roll(quaternion, -1), np.zeros(6)])
        self._root[row] = self._root.new_tensor(state.tolist())
        self._moved.add(row)
        self._show(slot, name, {"pos": pose[:3], "quat": quaternion})

    def _show(self, slot: int, root: str, placed: Mapping[str, F64]) -> None:
        """Outputs of one root's bodies, by MuJoCo's kinematics of the same model."""
        model, data = self.model, self._described
        if root == ROBOT:
            for name, value in zip((*self.robot.joints, *FINGERS), self._q[slot], strict=True):
                data.joint(name).qpos = value
        elif root in self.task.free_bodies:
            data.joint(root).qpos = np.concatenate([placed["pos"], placed["quat"]])
        else:
            mocap = int(model.body(root).mocapid[0])
            data.mocap_pos[mocap], data.mocap_quat[mocap] = placed["pos"], placed["quat"]
        mujoco.mj_kinematics(model, data)
        bodies = subtree(model, root)
        self.body_positions[slot, bodies], self.body_rotations[slot, bodies] = data.xpos[bodies], data.xmat[bodies]

    def _send(self) -> None:
        """Makes one call per kind of state: the GPU pipeline heeds only the last of several before a step."""
        gym, sim, send = self._world.gym, self._world.sim, self._handle
        self._sent.clear()
        if self._moved:
            rows = self._root.new_tensor(sorted(self._moved)).int()
            gym.set_actor_root_state_tensor_indexed(sim, send(self._root), send(rows), len(rows))
        slots = np.flatnonzero(self._restarted)
        if len(slots):
            start = np.zeros((len(slots), len(self._order), 2))
            start[:, self._order, 0] = self._q[slots]
            self._dofs.view(self.n, -1, 2)[slots.tolist()] = self._dofs.new_tensor(start.tolist())
            rows = self._root.new_tensor(self._world.actors[ROBOT][slots].tolist()).int()
            gym.set_dof_state_tensor_indexed(sim, send(self._dofs), send(rows), len(rows))
        gym.set_dof_position_target_tensor(sim, send(self._dofs.new_tensor(self._targets.ravel().tolist())))
        self._moved.clear()
        self._restarted[:] = False

    def _handle(self, tensor: Any) -> "gymapi.Tensor":
        """Returns what Isaac Gym takes; the tensor is kept, because it is read during the next step."""
        from isaacgym import gymtorch

        self._sent.append(tensor)
        return gymtorch.unwrap_tensor(tensor)

    def _read(self) -> None:
        self._refresh()
        dofs = _array(self._dofs).reshape(self.n, -1, 2)[:, self._order]
        self._q[:], self._rates[:] = dofs[:, :, 0], dofs[:, :, 1]
        rigid = _array(self._rigid)[self._world.bodies[:, 1:]]
        self.body_positions[:, 1:] = rigid[:, :, :3]
        rotations = matrix_from_quaternion(np.roll(rigid[:, :, 3:7], 1, axis=-1))
        self.body_rotations[:, 1:] = rotations.reshape(self.n, -1, 9)
        self._wrench[:] = self._contacts()
        self.body_positions[self._broken, 1:] = self._wrench[self._broken] = np.nan

    def _contacts(self) -> F64:
        """Forces on palm and fingers, summed up at the TCP (n, 6)."""
        sensed = _array(self._sensors).reshape(self.n, len(SENSED), 6)
        arms = np.stack([self.body_position(name) for name in SENSED], 1) - self.tool_position[:, None]
        moments = sensed[:, :, 3:] + np.cross(arms, sensed[:, :, :3])
        return np.concatenate([sensed[:, :, :3].sum(1), moments.sum(1)], axis=1)


def _require_isaacgym() -> None:
    """Loads it before torch, as it wants; it refuses other versions of Python."""
    if find_spec("isaacgym") is None:
        raise InputError("physics 'isaac': isaacgym (NVIDIA, Preview 4) is not installed here; choose mujoco")
    try:
        import isaacgym  # noqa: F401
    except ImportError as error:
        raise InputError(f"physics 'isaac': isaacgym does not load here ({error}); choose mujoco") from error


def _array(tensor: Any) -> F64:
    """Copies a simulator's tensor."""
    return np.array(tensor.cpu().numpy(), float)
