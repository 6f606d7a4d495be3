"""The command line: `twinrl demo`, `twinrl scan`, `twinrl status`.

A person's mistake ends with one line and exit code 2, Ctrl-C with a summary of what was saved and exit code 130.
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from protos.errors import TwinRLError
from twinrl.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Run the whole method: scan, demonstrations, SFT, twin RL, guided RL on the stand-in arm, report."""

    settings: tyro.conf.OmitArgPrefixes[RunSettings] = field(default_factory=RunSettings)
    resume: bool = False
    """Go on with the run of this name where it stopped, with the settings it was started with."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """Say what each process of a run does, and who waits on whom."""

    run: tyro.conf.Positional[Path]
    """Folder of the run, for example runs/demo."""


Command = Annotated[Demo, tyro.conf.subcommand("demo")] | Annotated[Status, tyro.conf.subcommand("status")]


def main() -> None:
    """Entry point of the `twinrl` script."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["scan"]:
            from twin.scan.__main__ import main as scan

            sys.exit(scan(arguments[1:]))
        sys.exit(_run(tyro.cli(Command, args=arguments, prog="twinrl", description=__doc__)))
    except TwinRLError as error:
        sys.stderr.write(f"twinrl: {error}\n")
        sys.exit(2)


def _run(command: Demo | Status) -> int:
    if isinstance(command, Demo):
        from twinrl.run import run

        return run(command.settings, resume=command.resume)
    from rich.console import Console

    from twinrl.status import status

    Console().print(status(command.run))
    return 0


if __name__ == "__main__":
    main()
