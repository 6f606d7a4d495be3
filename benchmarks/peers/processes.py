"""This module reads the CPU seconds and memory of processes from /proc (Linux), with the standard library alone."""

import os
from collections.abc import Iterable
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that these processes, all their threads and their reaped children have used."""
    return sum(sum(map(int, fields[11:15])) for fields in map(_stat, pids) if fields) / TICKS_PER_S


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory that these processes hold; pages they share count for each."""
    return sum(int(fields[21]) for fields in map(_stat, pids) if fields) * PAGE_BYTES


def descendants(pid: int) -> list[int]:
    """The process and everything it started, directly or not, that is alive."""
    parents = {int(path.name): _parent(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[str]:
    """The fields of /proc/pid/stat after the name, from the state on; none if the process has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text[text.rindex(")") + 2 :].split()
