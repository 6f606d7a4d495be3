"""This module names what the controller needs of the physics behind it; `twin.world.ArmWorld` is one.

All quantities are those of one arm, in its base frame; see `protos.schema` for units.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.simulated_ur.kinematics import ControllerKinematics
from actors.simulated_ur.settings import StandinSettings
from protos.errors import InputError
from protos.schema import F64, U8, Configuration
from twin import tasks
from twin.labs import Lab
from twin.robots import UR5E, Robot
from twin.scene import Scene


class World(Protocol):
    """One arm over a table, moved in small slices of time."""

    @property
    def joints(self) -> F64: ...
    @property
    def joint_velocities(self) -> F64: ...
    @property
    def wrench(self) -> F64: ...
    @property
    def opening(self) -> float: ...

    def set_joint_targets(self, q: F64) -> None: ...
    def set_gripper(self, opening: float) -> None: ...
    def advance(self, seconds: float) -> None: ...
    def place(self, configuration: Configuration) -> None: ...
    def object_pose(self, name: str) -> tuple[float, float, float, float]: ...
    def success(self) -> bool: ...
    def render(self) -> tuple[U8, U8]: ...


@dataclass(frozen=True)
class Hosted:
    """A world, and the facts about its lab and task that the controller has to know."""

    world: World
    robot: Robot
    lab: Lab
    objects: Sequence[str]


def host_world(settings: StandinSettings) -> Hosted:
    """Returns the MuJoCo world of the stand-in's scene, task and lab. Raises InputError for unknown names."""
    from twin.world import ArmWorld

    task, scene = tasks.get(settings.task), Scene.load(settings.scene)
    if scene.robot.name != UR5E.name:
        raise InputError(f"robot {scene.robot.name!r} of {settings.scene}: the stand-in simulates a {UR5E.name}")
    world = ArmWorld(scene, task, settings.lab, schema=settings.schema, seed=settings.seed)
    world.render()  # compiles before a client waits for an answer
    kinematics = ControllerKinematics(scene.robot)
    kinematics.joints_for(kinematics.pose_of(world.joints), near=world.joints)
    return Hosted(world, scene.robot, settings.lab, task.bodies)
