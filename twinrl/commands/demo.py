"""`twinrl demo`: a run of the whole method."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from twinrl.run.run import run
from twinrl.run.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Run the whole method: scan, demonstrations, SFT, twin RL, guided RL on the stand-in arm, report."""

    settings: Annotated[RunSettings, tyro.conf.arg(name="")] = field(default_factory=RunSettings)
    resume: bool = False
    """Go on with the run of this name where it stopped, with the settings it was started with."""


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(Demo, prog="twinrl demo", args=arguments, config=(tyro.conf.UseAppendAction,))
    return run(command.settings, resume=command.resume)
