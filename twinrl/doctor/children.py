"""Probes in child processes: a library that hangs, crashes or kills its process costs one line of the report."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from twinrl.doctor.finding import Finding, wanting

DEADLINE_S = 180.0
"""Long enough to compile gsplat on a slow machine; every other probe takes seconds."""


def run_probes(names: Sequence[str], deadline_s: float = DEADLINE_S) -> Iterator[tuple[str, Finding]]:
    """Each name and its finding, in their order, as soon as it is known; as many run at a time as there are cores."""
    with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
        yield from zip(names, pool.map(lambda name: run_probe(name, deadline_s), names), strict=True)


def run_probe(name: str, deadline_s: float) -> Finding:
    """One probe, killed at its deadline."""
    command = [sys.executable, "-m", "twinrl.doctor", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, check=False)
    except subprocess.TimeoutExpired:
        return wanting(f"no answer within {deadline_s:g} s", f"try it by hand: {' '.join(command[1:])}")
    if done.returncode < 0:
        cause = signal.Signals(-done.returncode).name
        return wanting(
            f"killed by {cause}", "the installed build is not made for this processor or system; reinstall it"
        )
    try:
        return Finding(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, TypeError, ValueError):
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        return wanting(f"ended with code {done.returncode}: {last}", f"try it by hand: {' '.join(command[1:])}")
