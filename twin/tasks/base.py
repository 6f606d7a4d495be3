"""What a task is: where episodes start, how far an action reaches, when it is done, how an expert would do it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from protos.errors import InputError
from protos.schema import F32, F64, Bools, Configuration
from protos.space import Box, ConfigurationSpace
from twin.randomize import Domain
from twin.robots.grippers import ROBOTIQ_2F85
from twin.splats import Splats

TOOL = "tool"
"""Name of the tool's start pose in a configuration."""
PARKED_Z_M = -0.5
"""Where retired bodies are: below the table, out of every camera."""


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """What success, retired marks and the expert look at, one row per slot; base frame, metres."""

    tool: F64  # (n, 3) measured TCP position
    tool_rotation: F64  # (n, 3, 3) measured base_from_tcp
    tool_velocity: F64  # (n, 3) measured, m/s
    commanded: F64  # (n, 3) TCP position that the actions so far ask for, those still under way included
    commanded_rotation: F64  # (n, 3, 3) base_from_tcp that they ask for
    opening: F64  # (n,) measured, 0 closed .. 1 open
    closing: Bools  # (n,) the gripper is closing, or closed
    told_to_close: Bools  # (n,) the newest command to the gripper, which may still be under way
    bodies: Mapping[str, F64]  # name -> (n, 3) positions
    rotations: Mapping[str, F64]  # name -> (n, 3, 3) base_from_body
    stroke_m: float = ROBOTIQ_2F85.stroke_m  # gap of the robot's open gripper

    @property
    def grasp_width(self) -> F64:
        """(n,) gap between the fingers [m]."""
        return self.opening * self.stroke_m

    def has(self, body: str) -> Bools:
        """(n,) whether a body is still there; retired ones are not."""
        return np.asarray(self.bodies[body][:, 2] > PARKED_Z_M / 2)


@dataclass(frozen=True, kw_only=True)
class Hold:
    """How an object is held."""

    height_m: float
    """Tool above the body's origin."""
    width_m: tuple[float, float]
    """Measured gaps between the fingers that mean that they hold the object."""
    near_m: float = 0.012
    """The fingers close when the tool is this near."""
    slip_m: float = 0.03
    """An object that has slipped farther than this up or down between the fingers is grasped again."""
    turn_rad: float = 0.0
    """Turning the object by this much changes nothing for the fingers; 0 for an object grasped however it lies."""


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One manipulation task; a subclass per file."""

    name: str
    instruction: str
    space: ConfigurationSpace
    action_scale: tuple[float, float]
    """Metres and radians per control step at action 1; a rotation of 0 locks the tool's orientation."""
    tilt_rad: float = 0.0
    """How far the tool may lean from pointing straight down; with 0 it turns about the vertical alone."""
    max_steps: int
    work_box: Box
    """Where the tool may be commanded to."""
    free_bodies: tuple[str, ...]
    """Objects that physics moves."""
    fixed_bodies: tuple[str, ...] = ()
    """Targets that stay where the configuration puts them; the first is what the manipulated object is brought to."""
    hold: Hold
    """How the fingers take the manipulated object."""
    precision_m: float = 0.003
    """How exactly the tool must be led where it matters most; noise that explores is not larger."""
    success_steps: int = 2
    """Control steps in a row that `succeeded` must hold."""
    splats: Mapping[str, Splats] = field(default_factory=dict)
    """Bodies that are drawn as scanned, name -> splats in the body's frame; all others are drawn from their geoms."""
    symmetries: Mapping[str, int] = field(default_factory=dict)
    """Turns about its own z axis, itself included, after which a body looks the same: a square block has 4."""

    @property
    def bodies(self) -> tuple[str, ...]:
        return self.free_bodies + self.fixed_bodies

    @property
    def active_action_dims(self) -> tuple[int, ...]:
        """The entries of an action that do something."""
        if self.action_scale[1] == 0:
            return 0, 1, 2, 6
        return (0, 1, 2, 5, 6) if self.tilt_rad == 0 else tuple(range(7))

    @abstractmethod
    def mjcf(self, domain: Domain) -> str:
        """The task's bodies: a freejoint body per free body, a mocap body per fixed one."""

    def assets(self, domain: Domain) -> str:
        """What goes into MJCF's `asset` element: meshes of the task's bodies."""
        return ""

    @abstractmethod
    def splat_spacing(self, body: str) -> float:
        """Distance of the splats drawn on a body's surface [m]."""

    @abstractmethod
    def succeeded(self, state: TaskState) -> Bools:
        """(n,) whether the task is done at this moment."""

    @abstractmethod
    def expert(self, state: TaskState) -> F32:
        """(n, 7) what a good operator would do now."""

    def retired(self, state: TaskState) -> Mapping[str, Bools]:
        """Fixed bodies that vanish now, name -> (n,); they stay away, below the table, until the next reset."""
        return {}

    def pose(self, configuration: Configuration, body: str) -> tuple[float, float, float, float]:
        """x, y, z, yaw of one body (or `TOOL`) in a configuration; `InputError` names what is missing."""
        if body not in configuration.poses:
            raise InputError(
                f"configuration without a pose for {body!r} (it has {', '.join(configuration.poses) or 'none'}); "
                f"{self.name} needs {', '.join((*self.bodies, TOOL))}"
            )
        return configuration.poses[body]

    def body_poses(self, configuration: Configuration) -> dict[str, F64]:
        """Where the configuration puts the task's bodies: name -> (1, 4)."""
        return {name: np.array([self.pose(configuration, name)], float) for name in self.bodies}
