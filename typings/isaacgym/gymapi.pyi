"""The simulator. Lengths are metres, angles radians, quaternions (x, y, z, w); handles are opaque."""

from typing import Final, final

import numpy as np
from numpy.typing import NDArray

SIM_PHYSX: Final[SimType]
UP_AXIS_Y: Final[UpAxis]
UP_AXIS_Z: Final[UpAxis]
DOF_MODE_NONE: Final[int]
DOF_MODE_POS: Final[int]
DOF_MODE_VEL: Final[int]
DOF_MODE_EFFORT: Final[int]
DOMAIN_ENV: Final[IndexDomain]
DOMAIN_SIM: Final[IndexDomain]
DOMAIN_ACTOR: Final[IndexDomain]
INVALID_HANDLE: Final[int]

@final
class SimType: ...

@final
class UpAxis: ...

@final
class IndexDomain: ...

@final
class Sim: ...

@final
class Env: ...

@final
class Asset: ...

@final
class Tensor:
    """A buffer owned by the simulator; `gymtorch.wrap_tensor` views it."""

class Vec3:
    x: float
    y: float
    z: float
    def __init__(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> None: ...

class Quat:
    x: float
    y: float
    z: float
    w: float
    def __init__(self, x: float = 0.0, y: float = 0.0, z: float = 0.0, w: float = 1.0) -> None: ...
    @staticmethod
    def from_axis_angle(axis: Vec3, angle: float) -> Quat: ...

class Transform:
    p: Vec3
    r: Quat
    def __init__(self, p: Vec3 = ..., r: Quat = ...) -> None: ...

class PhysXParams:
    solver_type: int  # 1 = temporal Gauss-Seidel
    num_position_iterations: int
    num_velocity_iterations: int
    contact_offset: float
    rest_offset: float
    num_threads: int
    use_gpu: bool

class SimParams:
    dt: float  # s
    substeps: int
    gravity: Vec3
    up_axis: UpAxis
    use_gpu_pipeline: bool
    physx: PhysXParams
    def __init__(self) -> None: ...

class PlaneParams:
    normal: Vec3
    distance: float
    static_friction: float
    dynamic_friction: float
    restitution: float
    def __init__(self) -> None: ...

class AssetOptions:
    fix_base_link: bool
    disable_gravity: bool
    collapse_fixed_joints: bool
    flip_visual_attachments: bool
    armature: float
    density: float
    thickness: float
    default_dof_drive_mode: int
    def __init__(self) -> None: ...

class RigidShapeProperties:
    friction: float
    rolling_friction: float
    torsion_friction: float
    restitution: float

class ForceSensorProperties:
    enable_forward_dynamics_forces: bool  # gravity, drives
    enable_constraint_solver_forces: bool  # contacts, joint limits
    use_world_frame: bool  # else the sensor's own axes
    def __init__(self) -> None: ...

class Gym:
    """The singleton behind every call; an actor's DOFs and bodies keep the order of its asset."""

    def create_sim(
        self,
        compute_device: int = 0,
        graphics_device: int = 0,
        type: SimType = ...,  # noqa: A002  Isaac Gym's name
        params: SimParams = ...,
    ) -> Sim | None: ...
    def destroy_sim(self, sim: Sim) -> None: ...
    def add_ground(self, sim: Sim, params: PlaneParams) -> None: ...
    def prepare_sim(self, sim: Sim) -> bool:
        """Once, after every actor is created and before the first tensor is acquired."""

    def simulate(self, sim: Sim) -> None: ...
    def fetch_results(self, sim: Sim, wait_for_latest_sim_step: bool) -> None: ...
    def load_asset(self, sim: Sim, rootpath: str, filename: str, options: AssetOptions = ...) -> Asset | None:
        """A URDF or MJCF file."""

    def create_box(self, sim: Sim, width: float, height: float, depth: float, options: AssetOptions = ...) -> Asset:
        """Full sizes along x, y, z."""

    def create_asset_force_sensor(
        self, asset: Asset, body_idx: int, local_pose: Transform, props: ForceSensorProperties | None = None
    ) -> int:
        """On a body of an asset, before its actors are created; the index, or -1."""

    def find_asset_rigid_body_index(self, asset: Asset, name: str) -> int: ...
    def get_asset_dof_count(self, asset: Asset) -> int: ...
    def get_asset_dof_names(self, asset: Asset) -> list[str]: ...
    def get_asset_dof_properties(self, asset: Asset) -> NDArray[np.void]:
        """Fields hasLimits, lower, upper, driveMode, velocity, effort, stiffness, damping, friction, armature."""

    def create_env(self, sim: Sim, lower: Vec3, upper: Vec3, num_per_row: int) -> Env: ...
    def create_actor(
        self,
        env: Env,
        asset: Asset,
        pose: Transform,
        name: str = ...,
        group: int = -1,
        filter: int = -1,  # noqa: A002  Isaac Gym's name
        segmentation_id: int = 0,
    ) -> int:
        """`group` keeps environments from colliding with one another; actors sharing a bit of `filter` pass through."""

    def get_actor_index(self, env: Env, actor_handle: int, domain: IndexDomain) -> int: ...
    def find_actor_rigid_body_index(self, env: Env, actor_handle: int, name: str, domain: IndexDomain) -> int: ...
    def set_actor_dof_properties(self, env: Env, actor_handle: int, props: NDArray[np.void]) -> bool: ...
    def get_actor_rigid_shape_properties(self, env: Env, actor_handle: int) -> list[RigidShapeProperties]: ...
    def set_actor_rigid_shape_properties(
        self, env: Env, actor_handle: int, props: list[RigidShapeProperties]
    ) -> bool: ...

    # Global tensors: acquire once, refresh after each step, read through `gymtorch.wrap_tensor`.
    def acquire_actor_root_state_tensor(self, sim: Sim) -> Tensor:
        """(actors, 13): position, quaternion, linear and angular velocity."""

    def acquire_rigid_body_state_tensor(self, sim: Sim) -> Tensor:
        """(bodies, 13), as above."""

    def acquire_dof_state_tensor(self, sim: Sim) -> Tensor:
        """(dofs, 2): position, velocity."""

    def acquire_force_sensor_tensor(self, sim: Sim) -> Tensor:
        """(sensors, 6) N, Nm, environment by environment."""

    def acquire_net_contact_force_tensor(self, sim: Sim) -> Tensor:
        """(bodies, 3) N, world frame."""

    def refresh_actor_root_state_tensor(self, sim: Sim) -> bool: ...
    def refresh_rigid_body_state_tensor(self, sim: Sim) -> bool: ...
    def refresh_dof_state_tensor(self, sim: Sim) -> bool: ...
    def refresh_force_sensor_tensor(self, sim: Sim) -> bool: ...
    def refresh_net_contact_force_tensor(self, sim: Sim) -> bool: ...

    # Writing. The indexed forms take int32 actor indices of the simulation and still read the whole state tensor.
    # Every tensor handed over must stay alive until the next step.
    def set_dof_position_target_tensor(self, sim: Sim, position_tensor: Tensor) -> bool: ...
    def set_dof_position_target_tensor_indexed(
        self, sim: Sim, position_tensor: Tensor, actor_indices: Tensor, num_actors: int
    ) -> bool: ...
    def set_dof_state_tensor_indexed(
        self, sim: Sim, state_tensor: Tensor, actor_indices: Tensor, num_actors: int
    ) -> bool: ...
    def set_actor_root_state_tensor_indexed(
        self, sim: Sim, state_tensor: Tensor, actor_indices: Tensor, num_actors: int
    ) -> bool: ...

def acquire_gym() -> Gym: ...
