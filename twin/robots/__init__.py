"""This package describes robots and grippers as data, and finds them by name.

    get(name) ─► Robot ─► twin.kinematics (forward, inverse)
                      └─► twin.robots.mjcf ─► twin.physics, twin.render

A robot is one file of numbers. One of another package joins by an entry point of the group `twinrl.robots`
(`twin.plugins`) that names a `Robot`.
"""

from collections.abc import Mapping
from typing import Any

from protos.errors import InputError
from twin.plugins import Registry
from twin.robots.base import FINGERS, Gripper, Link, Robot, Transform
from twin.robots.grippers import FRANKA_HAND, ROBOTIQ_2F85
from twin.robots.ur5e import UR5E


def _opened(name: str, robot: Any) -> Robot:
    if not isinstance(robot, Robot) or robot.name != name:
        raise TypeError(f"it is {getattr(robot, 'name', robot)!r}; a twin.robots.Robot of the name {name!r} is needed")
    return robot


_ROBOTS = Registry("robot", "twinrl.robots", {"ur5e": "twin.robots.ur5e:UR5E", "fr3": "twin.robots.fr3:FR3"}, _opened)
_GRIPPERS: Mapping[str, Gripper] = {gripper.name: gripper for gripper in (ROBOTIQ_2F85, FRANKA_HAND)}
names = _ROBOTS.names
get = _ROBOTS.get


def get_gripper(name: str) -> Gripper:
    """Returns the gripper called `name`, which may be mounted on any robot."""
    if name not in _GRIPPERS:
        raise InputError(f"gripper {name!r}: choose one of {', '.join(_GRIPPERS)}, or the robot's own")
    return _GRIPPERS[name]


__all__ = [
    "FINGERS",
    "FRANKA_HAND",
    "ROBOTIQ_2F85",
    "UR5E",
    "Gripper",
    "Link",
    "Robot",
    "Transform",
    "get",
    "get_gripper",
    "names",
]
