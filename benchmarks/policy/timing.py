"""Time, memory and attainable arithmetic of calls on a CPU thread or a GPU."""

import contextlib
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.measure import spread, take_turns

Call = Callable[[], object]
Clock = Literal["cpu_ms", "wall_ms"]
_MATRIX = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One turn: milliseconds per call."""

    cpu_ms: float
    wall_ms: float


@dataclass(frozen=True, kw_only=True)
class Timings:
    """All turns of one system."""

    turns: tuple[Timing, ...]

    @property
    def cpu_ms(self) -> float:
        """Median over turns."""
        return median(turn.cpu_ms for turn in self.turns)

    @property
    def wall_ms(self) -> float:
        return median(turn.wall_ms for turn in self.turns)

    def cells(self) -> tuple[str, str]:
        """CPU and wall time, each as median and range."""
        columns = [[getattr(turn, name) for turn in self.turns] for name in ("cpu_ms", "wall_ms")]
        return spread(columns[0], _decimals(self.cpu_ms)), spread(columns[1], _decimals(self.wall_ms))

    def times(self, other: "Timings", *, clock: Clock = "cpu_ms") -> list[float]:
        """Returns how many times as long as `other` it takes, turn by turn."""
        pairs = zip(self.turns, other.turns, strict=True)
        return [getattr(mine, clock) / getattr(its, clock) for mine, its in pairs]


def in_turns(
    calls: Mapping[str, Call],
    *,
    turns: int,
    turn_s: float,
    device: torch.device,
    clocks: Mapping[str, Callable[[], float]] | None = None,
) -> dict[str, Timings]:
    """Times every call in turns A, B, …, A, B, …; each turn warms up once and then lasts at least `turn_s`.

    `clocks` are the CPU clocks [s] of calls that other processes work for; by default this process's.
    """
    own = clocks or {}
    systems = {name: _turn_of(call, turn_s, device, own.get(name, time.process_time)) for name, call in calls.items()}
    return {name: Timings(turns=tuple(found)) for name, found in take_turns(systems, turns).items()}


def peak_bytes(call: Call, device: torch.device) -> int:
    """Most memory that the call's tensors take at a time, beside what was there before."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with _Allocations() as allocations:
        call()
    return allocations.most


class _Allocations(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, from their birth to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {id(tensor.untyped_storage()) for tensor in _tensors((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            if id(storage) not in given and id(storage) not in self._alive:
                self._born(storage)
        return made

    def _born(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def ended(_: object) -> None:
            if self._alive.pop(key, None) is not None:
                self._now -= size

        self._alive[key] = weakref.ref(storage, ended)
        self._now += size
        self.most = max(self.most, self._now)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@dataclass(frozen=True, kw_only=True)
class Matmul:
    """A large product of matrices, whose rate is what a device attains at best."""

    call: Call
    flops: int

    @classmethod
    def on(cls, device: torch.device, dtype: torch.dtype = torch.float32) -> "Matmul":
        size = _MATRIX[device.type]
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        return cls(call=lambda: a @ b, flops=2 * size**3)

    def flops_per_ms(self, measured: Timings, *, clock: Clock = "cpu_ms") -> float:
        """The rate, from timings of `call`."""
        return self.flops / float(getattr(measured, clock))


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch with so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _turn_of(call: Call, turn_s: float, device: torch.device, clock: Callable[[], float]) -> Callable[[], Timing]:
    def turn() -> Timing:
        call()
        _finish(device)
        cpu, wall, calls = clock(), time.perf_counter(), 0
        while True:
            call()
            calls += 1
            if time.perf_counter() - wall >= turn_s:
                _finish(device)
                break
        spent = clock() - cpu, time.perf_counter() - wall
        return Timing(cpu_ms=1e3 * spent[0] / calls, wall_ms=1e3 * spent[1] / calls)

    return turn


def _finish(device: torch.device) -> None:
    """Waits for what was handed to a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _decimals(milliseconds: float) -> int:
    return 0 if milliseconds >= 100 else 1 if milliseconds >= 10 else 2
