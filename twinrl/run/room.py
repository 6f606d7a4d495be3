"""This module compares the room on a disk with what is to be written there."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from protos.errors import InputError


def check_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Raises InputError where the disk of `folder` has less than `needed_bytes` free for what is to be written."""
    free = shutil.disk_usage(existing(folder)).free
    if free < needed_bytes:
        needed, there = (f"{size / 2**20:,.0f} MiB" for size in (needed_bytes, free))
        raise InputError(f"{folder}: {what} needs {needed} and {there} are free; make room there")


def existing(folder: Path) -> Path:
    """Returns the folder, or its nearest ancestor that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def size_of(files: Iterable[Path]) -> int:
    """Returns the bytes of files."""
    return sum(path.stat().st_size for path in files if path.is_file())
