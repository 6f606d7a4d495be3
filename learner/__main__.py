"""`python -m learner sft|rl --settings FILE --out DIR [--resume]` runs one learning stage.

SIGTERM and Ctrl-C save a checkpoint and end with 0; `--resume` goes on from it.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from learner.stage import RlSettings, SftSettings, run_rl, run_sft
from protos.folders import owned
from protos.problems import doing
from protos.process import run_process, stop_on_signal
from protos.settings import load_settings

log = logging.getLogger("learner")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run one stage of the learner."""

    stage: tyro.conf.Positional[Literal["sft", "rl"]]
    settings: Path
    """JSON file of SftSettings or RlSettings."""
    out: Path
    """Folder for the policy, the checkpoint and the metrics."""
    resume: bool = False
    """Go on from the checkpoint in the folder, if there is one."""


def main(arguments: Arguments) -> None:
    stop = stop_on_signal()
    with owned(arguments.out, f"learner {arguments.stage}"):
        if arguments.stage == "sft":
            sft = load_settings(SftSettings, arguments.settings)
            with doing("fine-tuning", arguments.out):
                finished = run_sft(sft, arguments.out, resume=arguments.resume, stop=stop.is_set)
        else:
            rl = load_settings(RlSettings, arguments.settings)
            with doing(f"learning ({rl.stage})", arguments.out):
                finished = run_rl(rl, arguments.out, resume=arguments.resume, stop=stop.is_set)
    if not finished:
        log.info("stopped before the end; --resume goes on from %s", arguments.out / "checkpoint")


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
