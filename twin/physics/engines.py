"""The engines by name."""

from collections.abc import Mapping
from typing import Protocol

from protos.errors import InputError
from twin.physics.interface import Physics
from twin.physics.mujoco_batch import MujocoPhysics
from twin.randomize import Domain
from twin.robots.base import Robot
from twin.tasks.base import Task


class Maker(Protocol):
    """What builds an engine's worlds."""

    def __call__(self, robot: Robot, task: Task, domain: Domain, n: int, threads: int) -> Physics: ...


def _isaac(robot: Robot, task: Task, domain: Domain, n: int, threads: int) -> Physics:
    from twin.physics.isaac import IsaacPhysics

    return IsaacPhysics(robot, task, domain, n, threads)


_ENGINES: Mapping[str, Maker] = {"mujoco": MujocoPhysics, "isaac": _isaac}


def names() -> tuple[str, ...]:
    """Every engine's name."""
    return tuple(_ENGINES)


def make(name: str, robot: Robot, task: Task, domain: Domain, *, n: int, threads: int = 1) -> Physics:
    """n worlds of a robot and a task in the engine called `name`."""
    if name not in _ENGINES:
        raise InputError(f"physics {name!r}: choose one of {', '.join(_ENGINES)}")
    return _ENGINES[name](robot, task, domain, n, threads)
