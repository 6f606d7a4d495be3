"""This module is shared by `twinrl sft` and `twinrl rl`: it reads settings, shows progress and ends cleanly.

DIR/settings.json (--resume) or --settings FILE ─► start values ─► --recipe ─► flags ─► settings ─► DIR/settings.json
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from learner.stage import RECIPES, Recipe, checkpoint
from policy.checkpoint import policy_settings
from policy.settings import PolicySettings
from protos.errors import InputError
from protos.process import interruptible
from protos.schema import Schema
from protos.settings import anchored, load_settings, save_settings
from twinrl.run.progress import Progress

T = TypeVar("T")
SETTINGS = "settings.json"
Line = Mapping[str, float]
Stop = Callable[[], bool]
Watch = Callable[[Line], None]
Job = Callable[[Stop, Watch], bool]
"""A stage: told how to ask whether to stop, and whom to tell its metrics; True when it came to its end."""
PRESETS = ("tiny", "small", "base")


class _Stopped(Exception):
    """Ends the stage's line as one that was stopped."""


def start_values(kind: type[T], arguments: Sequence[str]) -> T | None:
    """The settings that flags change: those of the folder when it is resumed, or of a file; None without either.

    `kind` is read from the file, so a field that a command sets by itself may be missing there.
    """
    found = _early(arguments)
    if found.resume and found.settings is None and found.out is not None and (found.out / SETTINGS).exists():
        return load_settings(kind, found.out / SETTINGS, written=True)
    return None if found.settings is None else load_settings(kind, found.settings)


def recipe_in(arguments: Sequence[str]) -> Recipe | None:
    """Returns the recipe that `--recipe` names; flags then change its values."""
    found: Recipe | None = _early(arguments).recipe
    return found


def _early(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the flags that decide the values others start from; errors are told when all flags are read."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--settings", type=Path)
    early.add_argument("--out", type=Path)
    early.add_argument("--resume", action="store_true")
    early.add_argument("--recipe", type=lambda word: word if word in RECIPES else None)
    return early.parse_known_args(arguments)[0]


def fitted(kind: type[T], flags: Any, **own: Any) -> T:
    """The settings of a stage: what the flags say, and what the command worked out by itself."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: getattr(flags, name) for name in names} | own)


def schema_of(policy: PolicySettings, folder: Path | None, schema: Schema) -> Schema:
    """`schema` with the images that a policy takes: that of the folder where there is one."""
    if folder is not None:
        policy = policy_settings(folder)
    return replace(schema, side_px=policy.octo.side_px, wrist_px=policy.octo.wrist_px)


def prepare_folder(out: Path, settings: object, *, resume: bool) -> None:
    """Keeps the settings in the folder for `--resume`. Raises InputError for a folder in use."""
    if checkpoint.exists(out / "checkpoint") and not resume:
        raise InputError(
            f"{out} holds the checkpoint of an earlier stage: --resume goes on with it, or name another --out"
        )
    save_settings(anchored(settings), out / SETTINGS).chmod(0o600)  # the replay's address may hold a password


def follow(name: str, job: Job, *, total: float, notes: Sequence[str]) -> bool:
    """Runs a stage with a live line on the terminal; True when it came to its end.

    The first Ctrl-C, or SIGTERM, lets the stage save; a second one ends it at once.
    """
    with (
        suppress(_Stopped),
        interruptible("stopping: the checkpoint is being saved") as stop,
        Progress([name]) as progress,
    ):
        with progress.stage(name, total=total) as stage:

            def watch(line: Line) -> None:
                stage.update(line["step"], **{note: float(line[note]) for note in notes if note in line})

            if not job(stop.is_set, watch):
                raise _Stopped
        return True
    return False


def summary(command: str, out: Path, *, finished: bool) -> str:
    """Returns a line that says what was saved and how to go on."""
    if finished:
        return f"saved {out / 'policy'}"
    if not checkpoint.exists(out / "checkpoint"):
        return "stopped before the first step; nothing was saved"
    return f"stopped; saved {out / 'checkpoint'}. To go on: {command} --out {out} --resume"
