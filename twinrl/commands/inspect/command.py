"""This module is `twinrl inspect`: it says what is in a dataset or a run, and how it knows; it writes nothing there.

twinrl inspect bridge/1.0.0
twinrl inspect towels --settings towels.json    writes a settings file that reads it, as it was understood
twinrl inspect runs/demo --json
"""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from rich.console import Console

from learner.datasets.inspection import Report, inspect_dataset, inspect_episodes
from protos.errors import InputError
from protos.files import write_durably
from protos.pointers import refuse_pointer
from twinrl.commands.inspect.tables import parts
from twinrl.export_origin import Origin, open_origin
from twinrl.run.stored_replay import is_run


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Say what is in a dataset or a run: episodes, cameras, rate, what actions are, outcomes, what will be skipped."""

    path: tyro.conf.Positional[Path]
    """A folder of LeRobotDataset v3, RLDS or the paper's pickles, a JSON file that describes one, or a run folder."""
    episodes: int = 100
    """Episodes to look at, from the start."""
    settings: Path | None = None
    """New JSON file for settings with which the data can be read, where they need some."""
    json: bool = False
    """Print one JSON object instead of tables."""


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(Inspect, prog="twinrl inspect", args=arguments)
    report = _inspected(command)
    if command.json:
        sys.stdout.write(json.dumps(asdict(report), indent=1, default=str) + "\n")
    else:
        console = Console()
        for part in parts(report):
            console.print(part)
    if command.settings is not None:
        _write_settings(command.settings, report)
    return 0


def _inspected(command: Inspect) -> Report:
    refuse_pointer(command.path)
    if not is_run(command.path):
        return inspect_dataset(command.path, episodes=command.episodes)
    with ExitStack() as stack:
        found = open_origin(Origin(source=command.path), stack)
        return inspect_episodes(command.path, found.episodes, found.scale, found.hz, episodes=command.episodes)


def _write_settings(path: Path, report: Report) -> None:
    """Writes the settings file. Raises InputError where there is nothing to write, or a file already."""
    if report.settings is None:
        sys.stdout.write(f"{report.path} is read as it is; {path} was not written\n")
        return
    if path.exists():
        raise InputError(f"--settings {path}: is there already; name a new file")
    write_durably(path, [(json.dumps(report.settings, indent=1, ensure_ascii=False) + "\n").encode()])
    sys.stdout.write(f"wrote {path}\n")
