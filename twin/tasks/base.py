"""This module says what a task is: its starts, the reach of its actions, its success, and its expert."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from protos.errors import InputError
from protos.schema import F32, F64, Bools, Configuration
from protos.space import Box, ConfigurationSpace
from twin.randomize import Conditions
from twin.robots import ROBOTIQ_2F85

if TYPE_CHECKING:
    from twin.splats import Splats

TOOL = "tool"
"""Name of the tool's start pose in a configuration."""
PARKED_Z_M = -0.5
"""Height of retired bodies: below the table, out of every camera."""
WORK_BOX = Box(x=(-0.70, -0.30), y=(-0.28, 0.28), z=(0.012, 0.24))
"""The table in front of the robot; a task may narrow it."""
TOOL_START = Box(x=(-0.56, -0.52), y=(-0.02, 0.02), z=(0.15, 0.17))
"""Start poses of the tool, over the middle of the table."""


def mirrored(box: Box) -> dict[str, Box]:
    """Returns region A at y > 0, demonstrated on the arm, and region B, its mirror at y < 0."""
    return {"A": box, "B": replace(box, y=(-box.y[1], -box.y[0]))}


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """A state is what success, retired marks and the expert look at, one row per slot; base frame, metres."""

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
        """Gap between the fingers (n,) [m]."""
        return self.opening * self.stroke_m

    def has(self, body: str) -> Bools:
        """Tells in which slots (n,) a body is still there; retired ones are not."""
        return np.asarray(self.bodies[body][:, 2] > PARKED_Z_M / 2)


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A hold says how the fingers take an object."""

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
    """A task is one thing to do with the gripper; a subclass describes it."""

    name: str
    instruction: str
    space: ConfigurationSpace
    action_scale: tuple[float, float]
    """Metres and radians per control step at action 1; a rotation of 0 locks the tool's orientation."""
    tilt_rad: float = 0.0
    """Largest lean of the tool from pointing straight down; with 0 it turns about the vertical alone."""
    max_steps: int
    work_box: Box
    """Range of commanded tool positions."""
    free_bodies: tuple[str, ...]
    """Objects that physics moves."""
    fixed_bodies: tuple[str, ...] = ()
    """Targets that stay in place; the manipulated object is brought to the first of them."""
    hold: Hold
    """Grasp of the manipulated object."""
    precision_m: float = 0.003
    """Exactness with which the tool must be led where it matters most; exploration noise is not larger."""
    success_steps: int = 2
    """Control steps in a row that `succeeded` must hold."""
    splats: Mapping[str, "Splats"] = field(default_factory=dict)
    """Bodies that are drawn as scanned, name -> splats in the body's frame; all others are drawn from their geoms."""
    symmetries: Mapping[str, int] = field(default_factory=dict)
    """Turns about its own z axis, itself included, after which a body looks the same: a square block has 4."""

    @property
    def bodies(self) -> tuple[str, ...]:
        """Names of all bodies, the free ones first."""
        return self.free_bodies + self.fixed_bodies

    @property
    def active_action_dims(self) -> tuple[int, ...]:
        """Entries of an action that do something."""
        if self.action_scale[1] == 0:
            return 0, 1, 2, 6
        return (0, 1, 2, 5, 6) if self.tilt_rad == 0 else tuple(range(7))

    @abstractmethod
    def mjcf(self, conditions: Conditions) -> str:
        """Writes the task's bodies: a freejoint body per free body, a mocap body per fixed one.

        Friction, mass and colours are the conditions'. Sizes are the task's own: whoever builds a model scales them.
        """

    def assets(self, conditions: Conditions) -> str:
        """Writes the content of MJCF's `asset` element: meshes of the task's bodies."""
        return ""

    @abstractmethod
    def splat_spacing(self, body: str) -> float:
        """Returns the distance of the splats drawn on a body's surface [m]."""

    @abstractmethod
    def succeeded(self, state: TaskState) -> Bools:
        """Tells in which slots (n,) the task is done at this moment."""

    @abstractmethod
    def expert(self, state: TaskState) -> F32:
        """Returns the actions (n, 7) of a good operator."""

    def retired(self, state: TaskState) -> Mapping[str, Bools]:
        """Names fixed bodies that vanish now -> (n,); they stay away, below the table, until the next reset."""
        return {}

    def pose(self, configuration: Configuration, body: str) -> tuple[float, float, float, float]:
        """Returns x, y, z, yaw of one body (or `TOOL`) in a configuration; `InputError` names what is missing."""
        if body not in configuration.poses:
            raise InputError(
                f"configuration without a pose for {body!r} (it has {', '.join(configuration.poses) or 'none'}); "
                f"{self.name} needs {', '.join((*self.bodies, TOOL))}"
            )
        return configuration.poses[body]

    def body_poses(self, configuration: Configuration) -> dict[str, F64]:
        """Returns the start poses of the task's bodies: name -> (1, 4)."""
        return {name: np.array([self.pose(configuration, name)], float) for name in self.bodies}


def resting(task: Task, poses: Mapping[str, F64], conditions: Conditions) -> dict[str, F64]:
    """Returns poses name -> (k, 4) of bodies as large as the conditions say: as much higher, so that they rest."""
    scales = {name: conditions.scale(free=name in task.free_bodies) for name in poses}
    return {name: pose * [1.0, 1.0, scales[name][2], 1.0] for name, pose in poses.items()}
