"""`killed_learner.py EVENT COUNT …` runs the learner with the arguments after these and kills it at an event.

line       its COUNTth line of metrics has been written
tensors    the tensors of its COUNTth checkpoint are about to get their name
manifest   those have theirs, and the manifest that names them is about to take the old one's place
"""

import os
import signal
import sys
from pathlib import Path

from learner.__main__ import Arguments, main
from protos.process import run_process
from services.telemetry import MetricsLog


class Killer:
    def __init__(self, event: str, count: int) -> None:
        self.event, self.left = event, count

    def count(self, event: str) -> None:
        if event == self.event:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)


def watch_with(killer: Killer) -> None:
    replace, write = Path.replace, MetricsLog.write

    def replaced(self, target):
        if Path(target).parent.name == "checkpoint":
            killer.count("manifest" if Path(target).name == "manifest.json" else "tensors")
        return replace(self, target)

    def written(self, **line):
        write(self, **line)
        killer.count("line")

    Path.replace, MetricsLog.write = replaced, written


if __name__ == "__main__":
    watch_with(Killer(sys.argv[1], int(sys.argv[2])))
    sys.argv[1:3] = []
    sys.exit(run_process(Arguments, main))
