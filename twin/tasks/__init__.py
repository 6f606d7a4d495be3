"""This package holds the tasks, one idea per file, and finds them by name.

    get(name) ─► Task ─┬─ space          where episodes start        ─► guides, demonstrations
                       ├─ mjcf, assets   bodies and targets          ─► physics, renderer
                       ├─ succeeded      TaskState ─► done?          ─► vector twin, the arm
                       └─ expert         TaskState ─► action (n, 7)  ─► demonstrations, scripted operators

A task of another package joins by an entry point of the group `twinrl.tasks` (`twin.plugins`); `register` makes one
known in this process alone. `twin.tasks.expert` and `twin.tasks.shapes` are what tasks are made of.
"""

from collections.abc import Callable
from typing import Any

from twin.plugins import Registry
from twin.tasks.base import PARKED_Z_M, TOOL, TOOL_START, WORK_BOX, Hold, Task, TaskState, mirrored, resting


def _opened(name: str, make: Callable[[], Any]) -> Callable[[], Task]:
    task = make()
    if not isinstance(task, Task) or task.name != name:
        raise TypeError(f"it makes {getattr(task, 'name', task)!r}; a twin.tasks.Task of the name {name!r} is needed")
    return make


_TASKS: Registry[Callable[[], Task]] = Registry(
    "task",
    "twinrl.tasks",
    {
        "pick_and_place": "twin.tasks.pick_and_place:PickAndPlace",
        "insert_hexagon_block": "twin.tasks.insertion:InsertHexagonBlock",
        "insert_triple_column_block": "twin.tasks.insertion:InsertTripleColumnBlock",
        "erase_whiteboard": "twin.tasks.erase_whiteboard:EraseWhiteboard",
    },
    _opened,
)
names = _TASKS.names


def register(make: Callable[[], Task]) -> None:
    """Makes a task known in this process by its name; a name that another task has is refused."""
    _TASKS.register(make().name, make)


def get(name: str) -> Task:
    """Returns the task called `name`."""
    return _TASKS.get(name)()


__all__ = [
    "PARKED_Z_M",
    "TOOL",
    "TOOL_START",
    "WORK_BOX",
    "Hold",
    "Task",
    "TaskState",
    "get",
    "mirrored",
    "names",
    "register",
    "resting",
]
