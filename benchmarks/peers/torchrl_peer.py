"""TorchRL: a replay buffer on memory-mapped files that the writers' processes extend directly."""

from typing import Any

import torch
from tensordict import TensorDict  # type: ignore[import-not-found]
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer  # type: ignore[import-not-found]

from .protocol import SEGMENT_STEPS, Batch, Data, Job, serve
from .writers import Put, Writers


class TorchRL:
    """`LazyMemmapStorage` of `capacity` transitions, observation and next observation each stored in full."""

    tolerance = 0.0

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.options["threads"])
        data = Data(job.data)
        self._buffer = TensorDictReplayBuffer(
            storage=LazyMemmapStorage(job.capacity, scratch_dir=job.folder),
            batch_size=job.batch,
            shared=True,
        )
        for number in range(job.capacity // SEGMENT_STEPS):
            self._buffer.extend(_transitions(data.segment(number)))
        self._writers = Writers(job, _Connect(self._buffer))

    def batch(self) -> Batch:
        drawn = self._buffer.sample()
        return {name: drawn[name].numpy() for name in list(drawn.keys()) if name != "index"}

    def write(self, rate: float) -> None:
        self._writers.write(rate)

    def written(self) -> int:
        return self._writers.written()

    def writer_pids(self) -> list[int]:
        return self._writers.pids()

    def close(self) -> None:
        self._writers.close()


class _Connect:
    """Takes the shared buffer along into a writer's process."""

    def __init__(self, buffer: TensorDictReplayBuffer) -> None:
        self._buffer = buffer

    def __call__(self, job: Job, index: int) -> Put:
        del job, index
        torch.set_num_threads(1)

        def put(segment: dict[str, Any], number: int) -> int:
            del number
            self._buffer.extend(_transitions(segment))
            return SEGMENT_STEPS

        return put


def _transitions(segment: dict[str, Any]) -> TensorDict:
    """The 16 transitions of a segment."""
    rows = {name: torch.tensor(array) for name, array in segment.items()}
    seen = {name: rows[name] for name in ("side", "wrist", "proprio")}
    now = {name: array[:-1] for name, array in seen.items()}
    later = {f"next_{name}": array[1:] for name, array in seen.items()}
    return TensorDict(now | later | {"action": rows["action"]}, [SEGMENT_STEPS])


if __name__ == "__main__":
    serve(TorchRL)
