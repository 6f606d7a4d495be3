"""Writer processes that offer segments at a given rate, alike for every system that lets plain processes write."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from .protocol import SEGMENT_STEPS, Data, Job

IDLE_S = 0.05
STOP_TIMEOUT_S = 10.0
START_TIMEOUT_S = 120.0
MOST_BEHIND_S = 1.0
"""A writer that could not keep up catches up with at most this much."""

Put = Callable[[dict[str, Any], int], int]
"""Stores a segment with this number; returns how many transitions have been acknowledged."""
Open = Callable[[Job, int], Put]
"""Connects writer number i of a job; a function of a module, so that a new process finds it."""


class Pace:
    """Says when the next of `per_s` events is due."""

    def __init__(self) -> None:
        self._due_s = time.monotonic()

    def wait(self, per_s: float) -> None:
        now = time.monotonic()
        self._due_s = max(self._due_s, now - MOST_BEHIND_S) + 1.0 / per_s
        time.sleep(max(0.0, self._due_s - 1.0 / per_s - now))


class Writers:
    """`job.writers` processes; each writes its share of the rate."""

    def __init__(self, job: Job, connect: Open) -> None:
        context = multiprocessing.get_context("spawn")
        self._rate = context.Value("d", 0.0)
        self._counts = [context.Value("q", -1) for _ in range(job.writers)]
        self._processes = [
            context.Process(target=_write, args=(job, connect, index, self._rate, count), daemon=True)
            for index, count in enumerate(self._counts)
        ]
        for process in self._processes:
            process.start()
        self._await_start()

    def write(self, rate: float) -> None:
        self._rate.value = rate / len(self._processes)

    def written(self) -> int:
        return sum(count.value for count in self._counts)

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.pid is not None]

    def close(self) -> None:
        self._rate.value = -1.0
        for process in self._processes:
            process.join(STOP_TIMEOUT_S)
            if process.is_alive():
                process.kill()

    def _await_start(self) -> None:
        give_up = time.monotonic() + START_TIMEOUT_S
        while any(count.value < 0 for count in self._counts):
            if time.monotonic() > give_up or not all(process.is_alive() for process in self._processes):
                raise RuntimeError("a writer process did not start")
            time.sleep(IDLE_S)


def _write(job: Job, connect: Open, index: int, rate: Any, count: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    data, put = Data(job.data), connect(job, index)
    count.value = 0
    number, pace, parent = index * len(data) // max(job.writers, 1), None, os.getppid()
    while (wanted := rate.value) >= 0.0 and os.getppid() == parent:
        if not wanted:
            pace = None
            time.sleep(IDLE_S)
            continue
        pace = pace or Pace()
        pace.wait(wanted / SEGMENT_STEPS)
        count.value += put(data.segment(number), number)
        number += 1
