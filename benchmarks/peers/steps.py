"""What the peers of a twin have in common: steps per CPU second of a process, with one camera and with two.

    python -m peers.mujoco_steps '{"px": 128, "steps": 100, "model": "/tmp/model.mjb"}'  ──► {"1": 55.0, "2": 30.1}

CPU time is that of the whole process: a software GL draws in threads of its own.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 3
CAMERAS = (1, 2)

Step = Callable[[], None]
"""One control step and its pictures."""


def report(make: Callable[[dict[str, Any], int], Step]) -> None:
    """Measures what `make(job, cameras)` gives, and writes the median of the rounds for each number of cameras."""
    job = json.loads(sys.argv[1])
    found = {}
    for cameras in CAMERAS:
        step = make(job, cameras)
        step()
        rates = sorted(_rate(step, job["steps"]) for _ in range(ROUNDS))
        found[str(cameras)] = rates[ROUNDS // 2]
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def _rate(step: Step, steps: int) -> float:
    started = time.process_time()
    for _ in range(steps):
        step()
    return steps / (time.process_time() - started)
