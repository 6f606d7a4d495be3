"""`python -m learner sft|rl --settings FILE --out DIR [--resume]`.

SIGTERM and Ctrl-C save a checkpoint and end with 0; `--resume` goes on from it.
"""

import logging
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from learner.settings import RlSettings, SftSettings
from protos.errors import TwinRLError
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


def run(arguments: Arguments, stop: threading.Event) -> bool:
    """Runs the stage; True when it came to its end."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "sft":
        from learner.stages import run_sft

        sft = load_settings(SftSettings, arguments.settings)
        return run_sft(sft, arguments.out, resume=arguments.resume, stop=stop.is_set)
    from learner.stages import run_rl

    rl = load_settings(RlSettings, arguments.settings)
    return run_rl(rl, arguments.out, resume=arguments.resume, stop=stop.is_set)


def main() -> int:
    arguments = tyro.cli(Arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        finished = run(arguments, stop)
    except TwinRLError as error:
        sys.stderr.write(f"learner: {error}\n")
        return 2
    if not finished:
        log.info("stopped before the end; --resume goes on from %s", arguments.out / "checkpoint")
    return 0


if __name__ == "__main__":
    sys.exit(main())
