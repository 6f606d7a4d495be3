"""The tasks, one file each. `get(name)` finds them.

A task from elsewhere joins with `register`. Every process of a run must know it, so the modules that do so are named,
separated by commas, in the environment variable TWINRL_TASKS; they are imported when a task is first asked for. Names
of tasks also come with recorded data, which never says what to import.
"""

import os
from collections.abc import Callable
from importlib import import_module

from protos.errors import InputError
from twin.tasks.base import Task
from twin.tasks.erase_whiteboard import EraseWhiteboard
from twin.tasks.insert_hexagon_block import InsertHexagonBlock
from twin.tasks.insert_triple_column_block import InsertTripleColumnBlock
from twin.tasks.pick_and_place import PickAndPlace

MODULES = "TWINRL_TASKS"
"""Environment variable with the modules that register tasks."""
_TASKS: dict[str, Callable[[], Task]] = {
    "pick_and_place": PickAndPlace,
    "insert_hexagon_block": InsertHexagonBlock,
    "insert_triple_column_block": InsertTripleColumnBlock,
    "erase_whiteboard": EraseWhiteboard,
}


def register(make: Callable[[], Task]) -> None:
    """Makes a task known by its name; a name that another task has is refused."""
    name = make().name
    if _TASKS.setdefault(name, make) is not make:
        raise InputError(f"task {name!r} exists already; taken are {', '.join(_TASKS)}")


def names() -> tuple[str, ...]:
    """Every task's name."""
    _import_registered()
    return tuple(_TASKS)


def get(name: str) -> Task:
    """The task called `name`."""
    if name not in names():
        raise InputError(f"task {name!r}: choose one of {', '.join(_TASKS)}; others join through {MODULES}")
    return _TASKS[name]()


def _import_registered() -> None:
    for module in filter(None, os.environ.get(MODULES, "").split(",")):
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            raise InputError(f"{MODULES}={os.environ[MODULES]}: no module {error.name!r} on the import path") from error


__all__ = ["Task", "get", "names", "register"]
