"""TwinRL: a digital twin of a workspace, twin actors, one robot arm, and a policy that learns from all of them.

A person's mistake ends with one line and exit code 2, Ctrl-C with a summary of what was saved and exit code 130.
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from protos.errors import TwinRLError
from twin.scan import ScanSettings
from twinrl.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Run the whole method: scan, demonstrations, SFT, twin RL, guided RL on the stand-in arm, report."""

    settings: Annotated[RunSettings, tyro.conf.arg(name="")] = field(default_factory=RunSettings)
    resume: bool = False
    """Go on with the run of this name where it stopped, with the settings it was started with."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Turn photos or a video of a workspace into a scene folder with a report."""

    source: tyro.conf.Positional[Path]
    """Folder of photos, or a video file."""
    out: Path
    """Scene folder to write."""
    settings: Annotated[ScanSettings, tyro.conf.arg(name="")] = field(default_factory=ScanSettings)


@dataclass(frozen=True, kw_only=True)
class Status:
    """Say what each process of a run does, and who waits on whom."""

    run: tyro.conf.Positional[Path]
    """Folder of the run, for example runs/demo."""


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Scan, tyro.conf.subcommand("scan")]
    | Annotated[Status, tyro.conf.subcommand("status")]
)


def main() -> None:
    """Entry point of the `twinrl` script."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        sys.exit(_run(tyro.cli(Command, prog="twinrl", description=(__doc__ or "").splitlines()[0])))
    except TwinRLError as error:
        sys.stderr.write(f"twinrl: {error}\n")
        sys.exit(2)


def _run(command: Demo | Scan | Status) -> int:
    if isinstance(command, Demo):
        from twinrl.run import run

        return run(command.settings, resume=command.resume)
    if isinstance(command, Scan):
        from twinrl.scan import ScanJob, run_scan, summary

        report = run_scan(ScanJob(source=command.source, out=command.out, settings=command.settings))
        sys.stdout.write(summary(report, command.out) + "\n")
        return 0
    from rich.console import Console

    from twinrl.status import status

    Console().print(status(command.run))
    return 0


if __name__ == "__main__":
    main()
