"""`python -m actors.real demonstrate|evaluate|train --settings real.json [--arm]` runs one arm and its operator.

Exit codes: 0 done, 2 wrong input or an unreachable service, 3 the arm is stopped and waits for its operator, 130 ended
by Ctrl-C, SIGTERM or a lost terminal (SIGHUP). In every case the arm is held first and what was recorded is saved.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

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
    device: Literal["spacemouse", "gamepad", "keyboard"] | None = None
    """A person operates with this device, whatever the settings say of the operator."""
    reward: Path | None = None
    """Folder of a classifier that proposes when the task is solved (`twinrl reward train`)."""


def main(arguments: Arguments) -> int:
    from actors.real import modes
    from actors.real.settings import RealSettings
    from actors.real.table.proposing import ProposalSettings
    from protos.settings import load_settings

    interrupt_on_signal(hangup=True)
    try:
        settings = load_settings(RealSettings, arguments.settings)
        settings = replace(settings, armed=settings.armed or arguments.arm)
        if arguments.device is not None:
            person = replace(settings.person, device=arguments.device)
            settings = replace(settings, operator="person", person=person)
        if arguments.reward is not None:
            settings = replace(settings, reward=ProposalSettings(folder=arguments.reward))
        {"demonstrate": modes.demonstrate, "evaluate": modes.evaluate, "train": modes.train}[arguments.mode](settings)
    except ArmStopped as error:
        tell_problem(f"ARM STOPPED: {error}. Nothing moves until you start again.")
        return Exit.ARM_STOPPED
    except KeyboardInterrupt:
        tell_problem("ended by the operator; the arm is held and everything recorded is saved")
        return Exit.INTERRUPTED
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
