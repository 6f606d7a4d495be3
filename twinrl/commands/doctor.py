"""`twinrl doctor`: what this machine has, what it lacks for its part, and what to do about it.

`twinrl device` does the same for the SpaceMouse, gamepad or keyboard of a person at the arm.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro

from protos.process import run_process
from twinrl.doctor import Asked, Result, examine


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Try renderers, physics, libraries, replay, ports, disk, memory and clock; exit with 1 if a needed one is missing.

    `twinrl doctor` is for a machine that runs everything; `--role` names what one machine of a cluster does.
    """

    asked: Annotated[Asked, tyro.conf.arg(name="")] = field(default_factory=Asked)
    json: bool = False
    """Print one JSON object instead of lines."""


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(Doctor, prog="twinrl doctor", args=arguments, config=(tyro.conf.UseAppendAction,))
    results = []
    for result in examine(command.asked):
        results.append(result)
        if not command.json:
            sys.stdout.write(line(result))
            sys.stdout.flush()
    missing = [result for result in results if result.needed and not result.finding.ok]
    if command.json:
        checks = [{"check": r.check, "needed": r.needed, **asdict(r.finding)} for r in results]
        sys.stdout.write(json.dumps({"role": command.asked.role, "ok": not missing, "checks": checks}, indent=1) + "\n")
    else:
        sys.stdout.write(f"\n{verdict(command.asked.role, missing)}\n")
    return 1 if missing else 0


def line(result: Result) -> str:
    """One check as one line, with the advice behind what was found."""
    finding = result.finding
    state = "ok" if finding.ok else "missing" if result.needed else "optional"
    advice = f" -> {finding.advice}" if finding.advice else ""
    return f"{state:<9} {result.check:<14} {finding.found}{advice}\n"


def verdict(role: str, missing: Sequence[Result]) -> str:
    """The last line."""
    if not missing:
        return f"This machine is fit for its part ({role})."
    return f"Not fit for its part ({role}) until mended: {', '.join(result.check for result in missing)}."


def device(arguments: Sequence[str]) -> int:
    from actors.human.devices import __main__ as devices

    return run_process(devices.Arguments, devices.main, prog="twinrl device", arguments=arguments)
