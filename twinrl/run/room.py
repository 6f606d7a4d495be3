"""This module compares the room on a disk with what is to be written there, before a run and while it goes on.

needed_bytes(settings)   a plan's need, from the images that it makes
check_room               refuses a disk with less, before anything is done
check_low                ends a run before its disk is full: what is under way still finds room to be saved
"""

import math
import shutil
from collections.abc import Iterable
from pathlib import Path

from protos.errors import InputError, TwinRLError
from protos.schema import Schema
from twin import tasks
from twinrl.run.settings import RunSettings

FIXED_BYTES = 64 << 20
"""Scene, four policies with their checkpoints, two weight versions, logs, report: 40 MB in the demo."""
COMPRESSED = 0.5
"""Size of the cameras' images in the replay, of their size in memory; 0.48 in the demo."""
REWRITE_BYTES = 512 << 20
"""A log of the replay above this size is rewritten now and then, and both copies are there for a while."""
LOW_BYTES = 16 << 20
"""Three checkpoints of the demo."""


def transition_bytes(schema: Schema) -> int:
    """Returns what a transition takes in the replay's log."""
    pixels = schema.side_px**2 + schema.wrist_px**2
    return int(3 * pixels * COMPRESSED) + 1024


def transitions(settings: RunSettings) -> int:
    """Returns the transitions that a run makes at most; those of the arm with a takeover are kept twice."""
    plan, real = settings.demonstrations, settings.real_rl
    demonstrations = (plan.real_a + plan.twin_a + plan.twin_b) * tasks.get(settings.task).max_steps
    beside_arm = math.ceil(real.twin_steps * real.env_steps) if real.twin_share else 0
    return demonstrations + settings.twin_rl.env_steps + 2 * real.env_steps + beside_arm


def needed_bytes(settings: RunSettings) -> int:
    """Returns what a run needs on its disk. A replay on other machines needs nothing here."""
    if settings.replay:
        return FIXED_BYTES
    log = transitions(settings) * transition_bytes(settings.schema)
    return FIXED_BYTES + (log if log < REWRITE_BYTES else 2 * log)


def explained(settings: RunSettings) -> str:
    """Returns the estimate in words."""
    if settings.replay:
        return f"{FIXED_BYTES >> 20} MiB for scene, policies and checkpoints"
    return (
        f"{FIXED_BYTES >> 20} MiB for scene, policies and checkpoints, and {transitions(settings):,} transitions of "
        f"{transition_bytes(settings.schema) / 1024:.0f} KiB in the replay"
    )


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raises InputError where the disk of `folder` has less than `needed` bytes free for what is to be written."""
    free = shutil.disk_usage(existing(folder)).free
    if free < needed:
        wanted, there = (f"{size / 2**20:,.0f} MiB" for size in (needed, free))
        raise InputError(f"{folder}: {what} needs {wanted} and {there} are free; make room there or name another disk")


def check_low(folder: Path) -> None:
    """Raises TwinRLError where less than `LOW_BYTES` are left on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < LOW_BYTES:
        raise TwinRLError(
            f"{folder}: {free / 2**20:.1f} MiB are left on the disk, and a run ends at less than {LOW_BYTES >> 20} MiB "
            "so that what it has stays whole; make room there"
        )


def existing(folder: Path) -> Path:
    """Returns the folder, or its nearest ancestor that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def size_of(files: Iterable[Path]) -> int:
    """Returns the bytes of files."""
    return sum(path.stat().st_size for path in files if path.is_file())
