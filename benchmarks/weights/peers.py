"""Other ways to hand weights from one process to several on one machine, as roles of `weights_worker`.

    RayBroadcast                    cast to bfloat16, ray.put, one actor per receiver widens to float32
    FilePublisher, FileSubscriber   cast to bfloat16, torch.save, rename; receivers look every 10 ms and torch.load

All end where ours does: every receiver holds float32 arrays of its own.
"""

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import descendants
from benchmarks.weights.model import train, transformer
from protos.errors import Unreachable

RAY_STORE_BYTES = 1 << 30
LOOK_EVERY_S = 0.01


class _Learner:
    """Weights and their steps."""

    def __init__(self, parameters: int) -> None:
        import torch

        torch.set_num_threads(1)
        self._rng = np.random.default_rng(0)
        self._tensors = transformer(parameters, self._rng)
        self._version = 0

    def train(self, step: float) -> None:
        train(self._tensors, step, self._rng)

    def settle(self) -> None:
        """Returns at once: publish() leaves nothing behind here."""

    def _cast(self) -> dict[str, Any]:
        """Matrices as bfloat16, vectors as float32, as our wire format has it."""
        import torch

        arrays = {name: torch.from_numpy(array) for name, array in self._tensors.items()}
        return {name: array.to(torch.bfloat16) if array.ndim > 1 else array.clone() for name, array in arrays.items()}


class RayBroadcast(_Learner):
    """Publisher and, through its actors, the receivers."""

    def __init__(self, *, parameters: int, receivers: int) -> None:
        super().__init__(parameters)
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        import ray

        self._folder = tempfile.TemporaryDirectory(prefix="twinrl-ray-", ignore_cleanup_errors=True)
        ray.init(
            num_cpus=2,
            object_store_memory=RAY_STORE_BYTES,
            include_dashboard=False,
            _temp_dir=self._folder.name,
            log_to_driver=False,
            logging_level="ERROR",
        )
        actor = ray.remote(num_cpus=0)(_Receiver)
        self._actors = [actor.remote() for _ in range(receivers)]
        self._actor_pids = ray.get([actor.pid.remote() for actor in self._actors], timeout=120)
        self._swaps: list[Any] = []
        self._bytes = 0

    def pids(self) -> dict[str, list[int]]:
        own = os.getpid()
        others = set(descendants(own)) - {own, *self._actor_pids}
        return {"server": sorted(others), "publisher": [own], "subscribers": self._actor_pids}

    def publish(self) -> dict[str, Any]:
        import ray
        import torch

        began = time.monotonic()
        cast = {
            name: (array.view(torch.uint16) if array.dtype == torch.bfloat16 else array).numpy()
            for name, array in self._cast().items()
        }
        reference = ray.put(cast)
        self._swaps = [actor.swap.remote(reference) for actor in self._actors]
        blocked_s = time.monotonic() - began
        self._version += 1
        self._bytes += len(self._actors) * sum(array.nbytes for array in cast.values())
        return {"version": self._version, "began": began, "blocked_s": blocked_s}

    def holds(self, version: int, timeout_s: float = 60.0) -> list[float]:
        import ray

        assert version == self._version
        moments: list[float] = ray.get(self._swaps, timeout=timeout_s)
        return moments

    def pulled(self) -> int:
        return self._bytes

    def close(self) -> None:
        import ray

        ray.shutdown()
        self._folder.cleanup()


class _Receiver:
    """A Ray actor that uses the newest weights."""

    def pid(self) -> int:
        return os.getpid()

    def swap(self, arrays: dict[str, np.ndarray]) -> float:
        self.tensors = {
            name: (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array.copy()
            for name, array in arrays.items()
        }
        return time.monotonic()


class FilePublisher(_Learner):
    """Saves each version to one file, in the learner's own step."""

    def __init__(self, *, parameters: int, path: str) -> None:
        super().__init__(parameters)
        self._path = Path(path)

    def publish(self) -> dict[str, Any]:
        import torch

        began = time.monotonic()
        self._version += 1
        partial = self._path.with_suffix(".part")
        torch.save({"version": self._version, "tensors": self._cast()}, partial)
        partial.replace(self._path)
        return {"version": self._version, "began": began, "blocked_s": time.monotonic() - began}

    def close(self) -> None:
        """The file stays."""


class FileSubscriber:
    """Loads the file whenever it is another one."""

    def __init__(self, *, path: str) -> None:
        import torch

        torch.set_num_threads(1)
        self._path = Path(path)
        self._swaps: dict[int, float] = {}
        self._bytes = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="file-subscriber", daemon=True)
        self._thread.start()

    def holds(self, version: int, timeout_s: float = 60.0) -> list[float]:
        give_up = time.monotonic() + timeout_s
        while version not in self._swaps:
            if time.monotonic() > give_up:
                raise Unreachable(f"{self._path}: version {version} did not come within {timeout_s:g} s")
            time.sleep(LOOK_EVERY_S / 5)
        return [self._swaps[version]]

    def pulled(self) -> int:
        return self._bytes

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _follow(self) -> None:
        import torch

        seen = 0
        while not self._closed.wait(LOOK_EVERY_S):
            if not self._path.exists() or (status := self._path.stat()).st_mtime_ns == seen:
                continue
            seen = status.st_mtime_ns
            loaded = torch.load(self._path, weights_only=True)
            self.tensors = {name: array.float().numpy() for name, array in loaded["tensors"].items()}
            self._bytes += status.st_size
            self._swaps[loaded["version"]] = time.monotonic()
