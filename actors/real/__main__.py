"""`python -m actors.real demonstrate|evaluate|train --settings real.json [--arm]` runs one arm and its operator.

Exit codes: 0 done, 2 wrong input or an unreachable service, 3 the arm is stopped and waits for its operator, 130 ended
by Ctrl-C or SIGTERM. In every case the arm is held first and what was recorded is saved.
"""

import logging
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

import tyro

from protos.errors import ArmStopped
from protos.process import Exit, interrupt_on_signal, run_process, tell_problem


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Drive one UR arm: record demonstrations, evaluate a policy, or train."""

    mode: tyro.conf.Positional[Literal["demonstrate", "evaluate", "train"]]
    settings: Path
    """JSON file of RealSettings."""
    arm: bool = False
    """The workspace is clear: the arm may move."""


def main(arguments: Arguments) -> int:
    from actors.real import modes
    from actors.real.settings import RealSettings
    from protos.settings import load_settings

    interrupt_on_signal()
    try:
        settings = load_settings(RealSettings, arguments.settings)
        settings = replace(settings, armed=settings.armed or arguments.arm)
        {"demonstrate": modes.demonstrate, "evaluate": modes.evaluate, "train": modes.train}[arguments.mode](settings)
    except ArmStopped as error:
        tell_problem(f"ARM STOPPED: {error}. Nothing moves until you start again.")
        return Exit.ARM_STOPPED
    except KeyboardInterrupt:
        tell_problem("ended by the operator; the arm is held and everything recorded is saved")
        return Exit.INTERRUPTED
    return Exit.DONE


def _leave(code: int) -> NoReturn:
    """Ends at once: ur_rtde's threads can abort an interpreter that is torn down after the link was lost."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(run_process(Arguments, main))
