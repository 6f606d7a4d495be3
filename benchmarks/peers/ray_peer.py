"""A Ray actor that holds a ring of numpy arrays, as replay buffers on Ray do; batches come through the object store.

Observations are stored once: the next observation is the next slot, as long as that is of the same segment.
"""

import os
import threading
from collections import deque
from typing import Any

import numpy as np
import ray

from .protocol import SEGMENT_STEPS, Batch, Data, Job, serve
from .writers import Pace

ANSWER_TIMEOUT_S = 60.0
IN_FLIGHT = 2
"""Batches asked for ahead."""
STORE_BYTES = 2 << 30
NAMES = ("side", "wrist", "proprio")


class Ring:
    """The replay."""

    def __init__(self, job: Job) -> None:
        data = Data(job.data)
        self._slots = job.capacity // SEGMENT_STEPS * (SEGMENT_STEPS + 1)
        shapes = {name: getattr(data, name).shape[2:] for name in (*NAMES, "action")}
        self._rows = {
            name: np.zeros((self._slots, *shape), getattr(data, name).dtype) for name, shape in shapes.items()
        }
        self._can_start = np.zeros(self._slots, np.bool_)
        self._can_start[:] = np.arange(self._slots) % (SEGMENT_STEPS + 1) < SEGMENT_STEPS
        self._batch, self._head = job.batch, 0
        self._rng = np.random.default_rng(0)
        for number in range(job.capacity // SEGMENT_STEPS):
            self.add(data.segment(number))

    def add(self, segment: dict[str, Any]) -> int:
        """Overwrites the oldest segment."""
        here = slice(self._head, self._head + SEGMENT_STEPS + 1)
        for name in NAMES:
            self._rows[name][here] = segment[name]
        self._rows["action"][self._head : self._head + SEGMENT_STEPS] = segment["action"]
        self._head = (self._head + SEGMENT_STEPS + 1) % self._slots
        return SEGMENT_STEPS

    def sample(self) -> dict[str, Any]:
        rows = self._rng.choice(np.flatnonzero(self._can_start), self._batch)
        now = {name: self._rows[name][rows] for name in (*NAMES, "action")}
        return now | {f"next_{name}": self._rows[name][rows + 1] for name in NAMES}


class Writer:
    """One writer; a thread of it writes while calls set the rate."""

    def __init__(self, job: Job, ring: Any) -> None:
        self._data, self._ring = Data(job.data), ring
        self._rate, self._count = 0.0, 0
        self._writing = threading.Event()

    def pid(self) -> int:
        return os.getpid()

    def write(self, rate: float) -> None:
        self._rate = rate
        (self._writing.set if rate else self._writing.clear)()

    def written(self) -> int:
        return self._count

    def run(self) -> None:
        number = 0
        while True:
            self._writing.wait()
            pace = Pace()
            while self._writing.is_set():
                pace.wait(self._rate / SEGMENT_STEPS)
                self._count += ray.get(self._ring.add.remote(self._data.segment(number)), timeout=ANSWER_TIMEOUT_S)
                number += 1


class RayRing:
    """Ray on this machine, one ring, `writers` writers."""

    tolerance = 0.0

    def __init__(self, job: Job) -> None:
        os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112  or it kills the ring when memory is full
        ray.init(
            num_cpus=max(2, os.cpu_count() or 2),
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            log_to_driver=False,
            _temp_dir=job.folder,
        )
        self._ring = ray.remote(num_cpus=0)(Ring).remote(job)
        self._asked = deque(self._ring.sample.remote() for _ in range(IN_FLIGHT))
        writer = ray.remote(num_cpus=0, max_concurrency=2)(Writer)
        self._writers = [writer.remote(job, self._ring) for _ in range(job.writers)]
        self._pids = self._each("pid")
        for writer in self._writers:
            writer.run.remote()

    def batch(self) -> Batch:
        batch: Batch = ray.get(self._asked.popleft(), timeout=ANSWER_TIMEOUT_S)
        self._asked.append(self._ring.sample.remote())
        return batch

    def write(self, rate: float) -> None:
        self._each("write", rate / len(self._writers))

    def written(self) -> int:
        return sum(self._each("written"))

    def writer_pids(self) -> list[int]:
        return self._pids

    def close(self) -> None:
        ray.shutdown()

    def _each(self, method: str, *arguments: Any) -> list[Any]:
        calls = [getattr(writer, method).remote(*arguments) for writer in self._writers]
        answers: list[Any] = ray.get(calls, timeout=ANSWER_TIMEOUT_S)
        return answers


if __name__ == "__main__":
    serve(RayRing)
