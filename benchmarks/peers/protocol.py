"""This module holds the protocol of workers: one JSON object per line.

    benchmark                                   worker (one per system)
    {"data": …, "capacity": …, …}  ──stdin──►   makes the system, fills it, checks a batch
                                   ◄─stdout──   {"ready": true}
    {"seconds": 6, "rate": 400}    ──────────►  draws batches for that long, while its writers write
                                   ◄──────────  {"batches": …, "seconds": …, "cpu_s": …, …}
    end of stdin                   ──────────►  closes the system and ends

All systems get the same steps: segments of 16 transitions, 17 observations each, from .npy files. `proprio[0]` and
`proprio[1]` of every observation say which segment and step it is, so that each worker's first batch is compared with
the files: what a system delivers is the right image and its true successor, or the worker ends with an error.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from .processes import cpu_seconds, descendants, resident_bytes

SEGMENT_STEPS = 16
CHECKED_ROWS = 16
Batch = Mapping[str, NDArray[Any]]
"""side, next_side, wrist, next_wrist, proprio, next_proprio, action; one row per transition."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The set-up that a worker is asked for."""

    data: str
    """Folder of side.npy, wrist.npy, proprio.npy (segments, 17, …) and action.npy (segments, 16, 7)."""
    folder: str
    """An empty folder of the worker's own, with a short path."""
    capacity: int
    """Transitions that the system holds; it is full when the first round begins."""
    batch: int
    writers: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of one system."""


class System(Protocol):
    """One replay with its learner in this process and its writers in others."""

    tolerance: float
    """Greatest mean difference of a image from its original; 0 where storage is lossless."""

    def batch(self) -> Batch:
        """The next batch, as arrays in this process's memory."""
        ...

    def write(self, rate: float) -> None:
        """Lets the writers together offer `rate` transitions per second from now on; 0: none."""
        ...

    def written(self) -> int:
        """Transitions that writers have had acknowledged."""
        ...

    def writer_pids(self) -> list[int]: ...

    def close(self) -> None: ...


class Data:
    """The steps that all systems store, mapped from files so that processes share them."""

    def __init__(self, folder: str) -> None:
        arrays = {name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in ("side", "wrist")}
        arrays |= {name: np.load(Path(folder) / f"{name}.npy") for name in ("proprio", "action")}
        self.side, self.wrist, self.proprio, self.action = arrays.values()

    def __len__(self) -> int:
        return len(self.action)

    def segment(self, number: int) -> dict[str, NDArray[Any]]:
        """Segment `number` modulo their count: 17 observations and 16 actions."""
        index = number % len(self)
        names = ("side", "wrist", "proprio", "action")
        return {name: np.asarray(getattr(self, name)[index]) for name in names}

    def check(self, batch: Batch, rows: int, tolerance: float) -> None:
        """Raises ValueError unless `batch` holds `rows` transitions of these steps."""
        for name in ("side", "next_side", "wrist", "next_wrist"):
            array = batch[name]
            expected = (rows, *getattr(self, name.removeprefix("next_")).shape[2:])
            if array.dtype != np.uint8 or array.shape != expected:
                raise ValueError(f"{name} is {array.dtype}{array.shape}, not uint8{expected}")
        for row in range(min(rows, CHECKED_ROWS)):
            segment, step = (int(value) for value in batch["proprio"][row, :2])
            for prefix, at in (("", step), ("next_", step + 1)):
                for camera in ("side", "wrist"):
                    image, original = batch[prefix + camera][row], getattr(self, camera)[segment, at]
                    error = np.abs(image.astype(np.int16) - original).mean()
                    if error > tolerance:
                        raise ValueError(f"{prefix}{camera} of segment {segment}, step {step}: off by {error:.1f}")


def serve(make: Callable[[Job], System]) -> None:
    """The main program of a worker: sets up, answers rounds until stdin ends."""
    answers = _own_stdout()
    orders = _orders(sys.stdin)
    job = Job(**next(orders))
    system = make(job)
    try:
        Data(job.data).check(system.batch(), job.batch, system.tolerance)
        _answer(answers, {"ready": True})
        for order in orders:
            _answer(answers, _round(system, **order))
    finally:
        system.close()


def _round(system: System, *, seconds: float, rate: float, warm_up_s: float, step_s: float = 0.0) -> dict[str, float]:
    """Draws batches while writers offer `rate`, each followed by a learner's step of `step_s` on another device."""
    system.write(rate)
    _draw(system, warm_up_s, step_s)
    writers = {pid for root in system.writer_pids() for pid in descendants(root)}
    reading = [pid for pid in descendants(os.getpid()) if pid not in writers]
    before = cpu_seconds(reading), cpu_seconds(writers), system.written()
    begin = time.monotonic()
    batches, waited_s = _draw(system, seconds, step_s)
    elapsed = time.monotonic() - begin
    after = cpu_seconds(reading), cpu_seconds(writers), system.written()
    system.write(0.0)
    cpu_s, writer_cpu_s, written = (new - old for new, old in zip(after, before, strict=True))
    return {
        "batches": batches,
        "seconds": elapsed,
        "waited_s": waited_s,
        "written": written,
        "cpu_s": cpu_s,
        "writer_cpu_s": writer_cpu_s,
        "resident_bytes": resident_bytes(reading),
    }


def _draw(system: System, seconds: float, step_s: float) -> tuple[int, float]:
    """Draws batches for so long and drops them; how many there were, and the time spent waiting for them."""
    batches, waited_s, now = 0, 0.0, time.monotonic()
    end = now + seconds
    while now < end:
        system.batch()
        waited_s += time.monotonic() - now
        batches += 1
        time.sleep(step_s)
        now = time.monotonic()
    return batches, waited_s


def _own_stdout() -> TextIO:
    """stdout for answers only: whatever libraries print goes to stderr from here on."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _orders(lines: TextIO) -> Iterator[dict[str, Any]]:
    for line in iter(lines.readline, ""):
        yield json.loads(line)


def _answer(answers: TextIO, answer: Mapping[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
