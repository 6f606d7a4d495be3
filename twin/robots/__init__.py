"""Robots as data, one file each. `get(name)` finds them; a new robot is a new file and one line here."""

from collections.abc import Mapping

from protos.errors import InputError
from twin.robots.base import FINGERS, Gripper, Link, Robot, Transform
from twin.robots.fr3 import FR3
from twin.robots.grippers import FRANKA_HAND, ROBOTIQ_2F85
from twin.robots.ur5e import UR5E

_ROBOTS: Mapping[str, Robot] = {robot.name: robot for robot in (UR5E, FR3)}
_GRIPPERS: Mapping[str, Gripper] = {gripper.name: gripper for gripper in (ROBOTIQ_2F85, FRANKA_HAND)}


def names() -> tuple[str, ...]:
    """Every robot's name."""
    return tuple(_ROBOTS)


def get(name: str) -> Robot:
    """The robot called `name`."""
    if name not in _ROBOTS:
        raise InputError(f"robot {name!r}: choose one of {', '.join(_ROBOTS)}")
    return _ROBOTS[name]


def get_gripper(name: str) -> Gripper:
    """The gripper called `name`."""
    if name not in _GRIPPERS:
        raise InputError(f"gripper {name!r}: choose one of {', '.join(_GRIPPERS)}")
    return _GRIPPERS[name]


__all__ = ["FINGERS", "Gripper", "Link", "Robot", "Transform", "get", "get_gripper", "names"]
