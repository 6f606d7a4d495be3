"""This module is `twinrl run LAB.toml` and `twinrl lab init`.

twinrl run lab.toml                   scans; then shows the arm and its cameras, moves nothing and ends
twinrl run lab.toml --resume --arm    goes on; the arm moves after each `go` at this terminal
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from twinrl.cli import choose
from twinrl.commands.lab.asking import Init, make_lab
from twinrl.commands.lab.lab_file import read_lab
from twinrl.run.run import Life
from twinrl.run.run import run as run_method


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run the whole method with the arm, cameras and operator of a lab file; `twinrl lab init` makes one."""

    lab: tyro.conf.Positional[Path]
    """The lab file."""
    arm: bool = False
    """The workspace is clear: the arm may move. Without it the run ends where it needs the arm, and shows it."""
    resume: bool = False
    """Go on where the run stopped, with the settings it was started with and the file's [station] of today."""
    name: str | None = None
    """Name of the run, in place of the file's."""


def run(arguments: Sequence[str]) -> int:
    """Runs `twinrl run` and returns its exit code."""
    command = tyro.cli(Run, prog="twinrl run", args=arguments)
    lab = read_lab(command.lab)
    again = ["twinrl", "run", str(command.lab), "--resume"]
    if command.name is not None:
        lab = replace(lab, run=replace(lab.run, name=command.name))
        again += ["--name", command.name]
    if lab.station is not None:
        again.append("--arm")
    return run_method(
        lab.run,
        Life(resume=command.resume, station=lab.station, is_armed=command.arm, again=shlex.join(again)),
    )


def lab(arguments: Sequence[str]) -> int:
    """Runs `twinrl lab` and returns its exit code."""
    about = "Make the file that describes a lab: arm, cameras, operator, task, photos."
    name = choose(arguments, {"init": "ask what a lab file needs, and write it"}, prog="twinrl lab", about=about)
    if name is not None:
        make_lab(tyro.cli(Init, prog="twinrl lab init", args=arguments[1:]))
    return 0
