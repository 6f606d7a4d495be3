"""`twinrl demo`: a run of the whole method."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from twinrl.run.run import Life, run
from twinrl.run.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Run the whole method: scan, demonstrations, SFT, twin RL, guided RL on the stand-in arm, report."""

    settings: Annotated[RunSettings, tyro.conf.arg(name="")] = field(default_factory=RunSettings)
    resume: bool = False
    """Go on with the run of this name where it stopped, with the settings it was started with."""


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(Demo, prog="twinrl demo", args=_gathered(arguments))
    return run(command.settings, Life(resume=command.resume))


def _gathered(arguments: Sequence[str]) -> list[str]:
    """Moves the URLs of every --replay behind one flag: as in all commands, each shard has its own.

    A list of numbers is named whole, as in `--twin.latency-steps 0 1`; flags that append could take nothing away.
    """
    rest: list[str] = []
    urls: list[str] = []
    gathering = False
    for word in arguments:
        flag, _, value = word.partition("=")
        if flag == "--replay":
            gathering = True
            urls += [value] if value else []
        elif gathering and not word.startswith("-"):
            urls.append(word)
        else:
            gathering = False
            rest.append(word)
    return [*rest, "--replay", *urls] if urls else rest
