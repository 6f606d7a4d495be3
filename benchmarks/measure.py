"""This module holds what all benchmarks share: the cost of processes, rounds that take turns, tables, the machine in
one line.
"""

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

from benchmarks.peers.processes import cpu_seconds, descendants, resident_bytes

__all__ = ["cpu_seconds", "descendants", "hardware", "resident_bytes", "spread", "table", "take_turns"]

T = TypeVar("T")


def take_turns(systems: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Calls A, B, C, A, B, C, …: what each gave in each round. A slow minute of the machine then hits all alike."""
    results: dict[str, list[T]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, measure in systems.items():
            results[name].append(measure())
    return results


def spread(values: Sequence[float], decimals: int = 0) -> str:
    """Median and range, as in "102 (98 – 110)"; the value alone where there is one."""
    texts = [f"{value:,.{decimals}f}" for value in (median(values), min(values), max(values))]
    return texts[0] if len(values) == 1 else f"{texts[0]} ({texts[1]} – {texts[2]})"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table; each cell as `str` writes it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def hardware() -> str:
    """Processor, memory, system and how busy the machine was, in one line."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{cores} cores ({_processor()}), {memory_gib:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}"
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
