"""The tasks, one file each. `get(name)` finds them; a new task is a new file and one line here."""

from collections.abc import Callable, Mapping

from protos.errors import InputError
from twin.tasks.base import Task
from twin.tasks.erase_whiteboard import EraseWhiteboard
from twin.tasks.insert_hexagon_block import InsertHexagonBlock
from twin.tasks.insert_triple_column_block import InsertTripleColumnBlock
from twin.tasks.pick_and_place import PickAndPlace

_TASKS: Mapping[str, Callable[[], Task]] = {
    "pick_and_place": PickAndPlace,
    "insert_hexagon_block": InsertHexagonBlock,
    "insert_triple_column_block": InsertTripleColumnBlock,
    "erase_whiteboard": EraseWhiteboard,
}


def names() -> tuple[str, ...]:
    """Every task's name."""
    return tuple(_TASKS)


def get(name: str) -> Task:
    """The task called `name`."""
    if name not in _TASKS:
        raise InputError(f"task {name!r}: choose one of {', '.join(_TASKS)}")
    return _TASKS[name]()


__all__ = ["Task", "get", "names"]
