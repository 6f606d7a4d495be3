"""This package moves n arms over their tables: engines behind one interface, and what a twin reads from them.

    VectorTwin, ArmWorld ─ reset, place, command, step ─► Physics ─┬─ mujoco_batch   MuJoCo, on the CPU; the default
                                                                   └─ isaac          Isaac Gym (PhysX), where installed
    Physics ─ state_of ─► TaskState ─► success, experts      Physics ─ proprio_of ─► observations

`broken` and `fault_of` tell which slot's physics went wrong, and how.
"""

from collections.abc import Callable, Mapping

from protos.errors import InputError
from twin.physics.interface import TIMESTEP_S, Physics, Pose, build_model
from twin.physics.mujoco_batch import MujocoPhysics
from twin.physics.state import broken, fault_of, proprio_of, retire, state_of, tool_poses
from twin.randomize import Domain
from twin.robots import Robot
from twin.tasks import Task


def _isaac(robot: Robot, task: Task, domain: Domain, n: int, threads: int) -> Physics:
    from twin.physics.isaac import IsaacPhysics

    return IsaacPhysics(robot, task, domain, n, threads)


_ENGINES: Mapping[str, Callable[[Robot, Task, Domain, int, int], Physics]] = {
    "mujoco": MujocoPhysics,
    "isaac": _isaac,
}


def names() -> tuple[str, ...]:
    """Returns every engine's name."""
    return tuple(_ENGINES)


def make(name: str, robot: Robot, task: Task, domain: Domain, *, n: int, threads: int = 1) -> Physics:
    """Builds n worlds of a robot and a task in the engine called `name`."""
    if name not in _ENGINES:
        raise InputError(f"physics {name!r}: choose one of {', '.join(_ENGINES)}")
    return _ENGINES[name](robot, task, domain, n, threads)


__all__ = [
    "TIMESTEP_S",
    "MujocoPhysics",
    "Physics",
    "Pose",
    "broken",
    "build_model",
    "fault_of",
    "make",
    "names",
    "proprio_of",
    "retire",
    "state_of",
    "tool_poses",
]
