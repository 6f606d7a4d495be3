"""This module builds the simulation that the Isaac Gym adapter steps: assets, environments, and indices into them.

    MjModel ─ write_urdf ─► temporary folder ─ load_asset ─► arm, task bodies ─ create_actor ─► n environments

Every environment stands at the origin, so positions are those of the base frame; collision groups keep them apart.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError
from twin.physics.interface import TIMESTEP_S
from twin.physics.urdf import colliding_geoms, subtree, write_urdf
from twin.robots import FINGERS, Robot
from twin.tasks import Task

if TYPE_CHECKING:
    from isaacgym import gymapi

GRAVITY = 9.81
ROBOT = "base"
"""Root body of the arm."""
SENSED = ("gripper", *FINGERS)
"""Bodies whose contacts make up the measured wrench."""
_SELF = 1
"""Filter bit of the arm: its links pass through one another, as in MuJoCo's model."""


@dataclass(frozen=True, kw_only=True)
class IsaacWorld:
    """A world is a simulation and the indices into its tensors."""

    gym: "gymapi.Gym"
    sim: "gymapi.Sim"
    on_gpu: bool
    joints: tuple[str, ...]
    """Names of the joints of the arm, then of the fingers, in the order of an environment's DOFs."""
    bodies: NDArray[np.int64]  # (n, model bodies) rows of the rigid body tensor; the world's own body is -1
    actors: dict[str, NDArray[np.int32]]
    """Root body -> (n,) rows of the root state tensor."""


def build(robot: Robot, task: Task, model: mujoco.MjModel, n: int, threads: int) -> IsaacWorld:
    """Builds n environments, prepared for the tensor interface."""
    from isaacgym import gymapi

    gym, on_gpu = gymapi.acquire_gym(), _has_gpu()
    sim = gym.create_sim(0, -1, gymapi.SIM_PHYSX, _parameters(on_gpu, threads))
    if sim is None:
        raise InputError(f"Isaac Gym could not create a simulation of {n} twins {'on the GPU' if on_gpu else 'here'}")
    with TemporaryDirectory(prefix="twinrl-isaac-") as folder:
        assets = {name: _load(gym, sim, model, name, task, Path(folder)) for name in (ROBOT, *task.bodies)}
    for name in SENSED:
        gym.create_asset_force_sensor(
            assets[ROBOT], gym.find_asset_rigid_body_index(assets[ROBOT], name), gymapi.Transform(), _contacts_only()
        )
    table = _table(gym, sim, model)
    bodies = np.full((n, model.nbody), -1)
    actors = {name: np.empty(n, np.int32) for name in assets}
    for slot in range(n):
        env = gym.create_env(sim, gymapi.Vec3(), gymapi.Vec3(), n)
        place = model.geom("table").pos
        handle = gym.create_actor(env, table, gymapi.Transform(gymapi.Vec3(*place)), "table", slot, 0)
        _set_friction(gym, env, handle, [float(model.geom("table").friction[0])])
        for name, asset in assets.items():
            pose = _transform(model, name)
            handle = gym.create_actor(env, asset, pose, name, slot, _SELF if name == ROBOT else 0)
            actors[name][slot] = gym.get_actor_index(env, handle, gymapi.DOMAIN_SIM)
            geoms = [geom for body in subtree(model, name) for geom in colliding_geoms(model, body)]
            _set_friction(gym, env, handle, [float(model.geom_friction[geom, 0]) for geom in geoms])
            if name == ROBOT:
                gym.set_actor_dof_properties(env, handle, _servos(gym, asset, model, robot))
            for body in subtree(model, name):
                bodies[slot, body] = gym.find_actor_rigid_body_index(
                    env, handle, model.body(body).name, gymapi.DOMAIN_SIM
                )
    gym.prepare_sim(sim)
    joints = tuple(gym.get_asset_dof_names(assets[ROBOT]))
    return IsaacWorld(gym=gym, sim=sim, on_gpu=on_gpu, joints=joints, bodies=bodies, actors=actors)


def _has_gpu() -> bool:
    import torch  # only after isaacgym

    return bool(torch.cuda.is_available())


def _parameters(on_gpu: bool, threads: int) -> "gymapi.SimParams":
    from isaacgym import gymapi

    parameters = gymapi.SimParams()
    parameters.dt, parameters.substeps = TIMESTEP_S, 2
    parameters.up_axis, parameters.gravity = gymapi.UP_AXIS_Z, gymapi.Vec3(0.0, 0.0, -GRAVITY)
    parameters.use_gpu_pipeline = parameters.physx.use_gpu = on_gpu
    parameters.physx.num_threads = threads
    parameters.physx.solver_type = 1
    parameters.physx.num_position_iterations, parameters.physx.num_velocity_iterations = 16, 1
    parameters.physx.contact_offset, parameters.physx.rest_offset = 0.002, 0.0
    return parameters


def _load(
    gym: "gymapi.Gym", sim: "gymapi.Sim", model: mujoco.MjModel, name: str, task: Task, folder: Path
) -> "gymapi.Asset":
    """Loads a root body; arm and targets are bolted to the world, only the task's free bodies fall."""
    from isaacgym import gymapi

    options = gymapi.AssetOptions()
    options.fix_base_link = options.disable_gravity = name not in task.free_bodies
    options.collapse_fixed_joints = False
    options.thickness = 0.001
    asset = gym.load_asset(sim, str(folder), write_urdf(model, name, folder).name, options)
    if asset is None:
        raise InputError(f"Isaac Gym could not load the URDF of {name!r}")
    return asset


def _table(gym: "gymapi.Gym", sim: "gymapi.Sim", model: mujoco.MjModel) -> "gymapi.Asset":
    from isaacgym import gymapi

    options = gymapi.AssetOptions()
    options.fix_base_link = True
    width, height, depth = (float(2 * half) for half in model.geom("table").size)
    return gym.create_box(sim, width, height, depth, options)


def _contacts_only() -> "gymapi.ForceSensorProperties":
    """Selects the forces of contacts, in the base frame's axes; a body's weight and its joints do not count."""
    from isaacgym import gymapi

    properties = gymapi.ForceSensorProperties()
    properties.enable_forward_dynamics_forces = False
    properties.enable_constraint_solver_forces = True
    properties.use_world_frame = True
    return properties


def _servos(gym: "gymapi.Gym", asset: "gymapi.Asset", model: mujoco.MjModel, robot: Robot) -> NDArray[np.void]:
    """Returns the model's position servos as PhysX drives; damping of servo and bearing add up."""
    from isaacgym import gymapi

    speed = {link.name: link.velocity for link in robot.links}
    properties = gym.get_asset_dof_properties(asset)
    for row, name in zip(properties, gym.get_asset_dof_names(asset), strict=True):
        servo, joint = model.actuator(name), model.joint(name)
        row["driveMode"] = gymapi.DOF_MODE_POS
        row["stiffness"] = servo.gainprm[0]
        row["damping"] = -servo.biasprm[2] + joint.damping[0]
        row["effort"] = servo.forcerange[1]
        row["armature"] = joint.armature[0]
        row["velocity"] = speed.get(name, row["velocity"])
    return properties


def _set_friction(gym: "gymapi.Gym", env: "gymapi.Env", actor: int, frictions: list[float]) -> None:
    """Sets the sliding friction of each of an actor's shapes, in order; the largest for all where the numbers differ.

    PhysX takes the mean of two surfaces' frictions; MuJoCo the larger, or that of the higher `priority`.
    """
    properties = gym.get_actor_rigid_shape_properties(env, actor)
    if len(properties) != len(frictions):
        frictions = [max(frictions, default=0.0)] * len(properties)
    for shape, friction in zip(properties, frictions, strict=True):
        shape.friction = friction
    gym.set_actor_rigid_shape_properties(env, actor, properties)


def _transform(model: mujoco.MjModel, root: str) -> "gymapi.Transform":
    from isaacgym import gymapi

    w, x, y, z = (float(value) for value in model.body(root).quat)
    return gymapi.Transform(gymapi.Vec3(*(float(value) for value in model.body(root).pos)), gymapi.Quat(x, y, z, w))
