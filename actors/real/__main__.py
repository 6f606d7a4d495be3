"""`python -m actors.real demonstrate|evaluate|train --settings real.json [--arm]`: one arm and its operator.

Exit codes: 0 done, 2 wrong input or an unreachable service, 3 the arm is stopped and waits for its operator, 130 ended
by Ctrl-C or SIGTERM. In every case the arm is held first and what was recorded is saved.
"""

import logging
import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

import tyro

from protos.errors import ArmStopped, TwinRLError

ARM_STOPPED, INTERRUPTED = 3, 130


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Drive one UR arm: record demonstrations, evaluate a policy, or train."""

    mode: tyro.conf.Positional[Literal["demonstrate", "evaluate", "train"]]
    settings: Path
    """JSON file of RealSettings."""
    arm: bool = False
    """The workspace is clear: the arm may move."""


def main() -> int:
    arguments = tyro.cli(Arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background job starts with it ignored
        signal.signal(number, _interrupt)
    try:
        _run(arguments)
    except ArmStopped as error:
        sys.stderr.write(f"twinrl: ARM STOPPED: {error}. Nothing moves until you start again.\n")
        return ARM_STOPPED
    except TwinRLError as error:
        sys.stderr.write(f"twinrl: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("twinrl: ended by the operator; the arm is held and everything recorded is saved\n")
        return INTERRUPTED
    return 0


def _run(arguments: Arguments) -> None:
    from actors.real import modes
    from actors.real.settings import RealSettings
    from protos.settings import load_settings

    settings = load_settings(RealSettings, arguments.settings)
    settings = replace(settings, armed=settings.armed or arguments.arm)
    {"demonstrate": modes.demonstrate, "evaluate": modes.evaluate, "train": modes.train}[arguments.mode](settings)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _leave(code: int) -> NoReturn:
    """Ends at once: ur_rtde's threads can abort an interpreter that is torn down after the link was lost."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())
