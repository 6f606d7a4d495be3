"""Starts of the arm's program on a computer that is busy with other work, until the arm moves for the first time."""

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.arm.stage import Program, Stage, wait_for
from benchmarks.measure import hardware, table
from protos.errors import InputError, TwinRLError
from protos.settings import positive

MOTION_TIMEOUT_S = 120.0
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(1_000_000))"
"""A loop that ends with its parent."""


@dataclass(frozen=True, kw_only=True)
class StartsBench:
    """Start the arm's program again and again beside busy loops; every start must move the arm."""

    starts: int = 50
    busy: int = 20
    """Busy loops beside it."""
    within_s: float = 3600.0
    """The last start begins within this time."""

    def __post_init__(self) -> None:
        if self.starts < 1 or self.busy < 0:
            raise InputError(f"starts={self.starts}, busy={self.busy}: at least 1 and 0")
        positive(self, "within_s")


def run(settings: StartsBench) -> str:
    """Returns the table."""
    took_s: list[float] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder), "standin") as stage, ExitStack() as busy:
        for _ in range(settings.busy):
            loop = subprocess.Popen([sys.executable, "-c", BUSY])
            busy.callback(loop.wait)
            busy.callback(loop.kill)
        deadline = time.monotonic() + settings.within_s
        while len(took_s) + len(failed) < settings.starts and time.monotonic() < deadline:
            try:
                took_s.append(_start(stage))
            except TwinRLError as error:
                failed.append(str(error))
    columns = ("busy loops", "starts", "moved the arm", "seconds until then: median, longest")
    seconds = f"{median(took_s):.1f}, {max(took_s):.1f}" if took_s else "-"
    rows = [[settings.busy, len(took_s) + len(failed), len(took_s), seconds]]
    return "\n".join([table(columns, rows), "", hardware(), *failed, ""])


def _start(stage: Stage) -> float:
    """Returns the seconds until the arm moves. Raises TwinRLError when the program ends before."""
    began = time.monotonic()
    stage.observer.forget()
    with Program(stage.settings(), stage.folder) as program:
        wait_for(
            lambda: program.process.poll() is not None or stage.observer.moved_for_s > 0, "it moves", MOTION_TIMEOUT_S
        )
        if program.process.poll() is not None:
            raise TwinRLError(program.said())
        took_s = time.monotonic() - began
        program.process.terminate()
        program.process.wait(60)
        return took_s
