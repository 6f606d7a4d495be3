"""dm-reverb: a table of two-step trajectories, sampled through its TensorFlow dataset.

Option `own_process`: the server runs in a process of its own instead of the learner's, where sampling needs no gRPC.
Option `chunk`: steps that Reverb stores together, 0 for its own choice. Option `workers`, `in_flight`: of the sampler.
"""

import multiprocessing
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import reverb  # type: ignore[import-not-found]
import tensorflow as tf  # type: ignore[import-untyped]

from .protocol import SEGMENT_STEPS, Batch, Data, Job, serve
from .writers import Put, Writers

TABLE = "twin"
START_TIMEOUT_S = 60
FLUSH_TIMEOUT_MS = 20_000


class Reverb:
    """One table of `capacity` items."""

    tolerance = 0.0

    def __init__(self, job: Job) -> None:
        data = Data(job.data)
        signature = _signature(data)
        port = _free_port()
        options = {"address": f"localhost:{port}", **job.options}
        self._job = replace(job, options=options)
        self._process, self._server = None, None
        if job.options["own_process"]:
            context = multiprocessing.get_context("spawn")
            self._process = context.Process(target=_serve_table, args=(job, port), daemon=True)
            self._process.start()
        else:
            self._server = _start_server(job, port)
        _wait_for(options["address"])
        put = connect(self._job, 0)
        for number in range(job.capacity // SEGMENT_STEPS):
            put(data.segment(number), number)
        self._batches = _batches(self._job, signature)
        self._writers = Writers(self._job, connect)

    def batch(self) -> Batch:
        steps = next(self._batches)
        pairs = {name: steps[name] for name in ("side", "wrist", "proprio")}
        now = {name: pair[:, 0] for name, pair in pairs.items()}
        later = {f"next_{name}": pair[:, 1] for name, pair in pairs.items()}
        return now | later | {"action": steps["action"][:, 0]}

    def write(self, rate: float) -> None:
        self._writers.write(rate)

    def written(self) -> int:
        return self._writers.written()

    def writer_pids(self) -> list[int]:
        return self._writers.pids()

    def close(self) -> None:
        self._writers.close()
        if self._process is not None:
            self._process.kill()


def connect(job: Job, index: int) -> Put:
    """A writer that flushes, and so waits for the server's answer, once per segment."""
    del index
    client = reverb.Client(job.options["address"])
    writer = client.trajectory_writer(num_keep_alive_refs=max(2, job.options["chunk"]))
    names = ("side", "wrist", "proprio", "action")
    if job.options["chunk"]:
        for name in names:
            writer.configure(
                (name,), num_keep_alive_refs=max(2, job.options["chunk"]), max_chunk_length=job.options["chunk"]
            )

    def put(segment: dict[str, Any], number: int) -> int:
        del number
        last = np.zeros_like(segment["action"][:1])
        steps = segment | {"action": np.concatenate([segment["action"], last])}
        for step in range(SEGMENT_STEPS + 1):
            writer.append({name: steps[name][step] for name in names})
            if step:
                trajectory = {name: writer.history[name][-2:] for name in names}
                writer.create_item(TABLE, priority=1.0, trajectory=trajectory)
        writer.flush(timeout_ms=FLUSH_TIMEOUT_MS)
        writer.end_episode()
        return SEGMENT_STEPS

    return put


def _batches(job: Job, signature: dict[str, Any]) -> Iterator[dict[str, Any]]:
    dataset = reverb.TrajectoryDataset(
        server_address=job.options["address"],
        table=TABLE,
        dtypes={name: spec.dtype for name, spec in signature.items()},
        shapes={name: spec.shape for name, spec in signature.items()},
        max_in_flight_samples_per_worker=job.options["in_flight"],
        num_workers_per_iterator=job.options["workers"],
    )
    ready = dataset.batch(job.batch, drop_remainder=True).prefetch(2)
    return (sample.data for sample in ready.as_numpy_iterator())


def _signature(data: Data) -> dict[str, Any]:
    return {
        name: tf.TensorSpec((2, *getattr(data, name).shape[2:]), getattr(data, name).dtype, name=name)
        for name in ("side", "wrist", "proprio", "action")
    }


def _start_server(job: Job, port: int) -> Any:
    table = reverb.Table(
        name=TABLE,
        sampler=reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=job.capacity,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature=_signature(Data(job.data)),
    )
    return reverb.Server([table], port=port)


def _serve_table(job: Job, port: int) -> None:
    server = _start_server(job, port)
    server.wait()


def _wait_for(address: str) -> None:
    give_up = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            reverb.Client(address).server_info(timeout=5)
            return
        except reverb.errors.ReverbError:
            if time.monotonic() > give_up:
                raise
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    serve(Reverb)
