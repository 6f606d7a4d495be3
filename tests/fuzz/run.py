"""`python tests/fuzz/run.py [--targets lerobot spz …] [--cases 100000]` damages the input of every reader of files.

    run ──starts──► worker (one target, limited memory) ──case numbers, faults──► run ──► table, exit code

A case must be read, or refused by a `TwinRLError` of one line. A traceback, an end by a signal, more memory than the
limit, and a case that takes longer than `hang_s` are faults; each is printed with its number, and
`--first N --cases 1` repeats it.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tyro

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]


@dataclass(frozen=True, kw_only=True)
class Fuzz:
    """Damage the input of every reader of files and see that it is read, or refused in one line."""

    targets: tuple[str, ...] = ()
    """Names of targets; all by default."""
    cases: int = 100_000
    """Per target."""
    first: int = 0
    """Number of the first case."""
    seed: int = 0
    hang_s: float = 60.0
    """Longest time that a case may take."""


@dataclass
class Found:
    """What a target's cases came to."""

    cases: int = 0
    peak_mib: int = 0
    faults: dict[int, str] = field(default_factory=dict)
    """Number of the case → traceback, "hang" or the signal that ended the process."""


def fuzz(name: str, settings: Fuzz) -> Found:
    """Runs the cases of one target, in a worker that is started again after it hung or died."""
    found, number, last = Found(), settings.first, settings.first + settings.cases
    while number < last:
        number = _run_worker(name, settings, number, last, found) + 1
    found.cases = settings.cases
    return found


def _run_worker(name: str, settings: Fuzz, first: int, last: int, found: Found) -> int:
    """Returns the number of the last case that the worker began."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared, prefix="twinrl-fuzz-") as folder:
        command = [sys.executable, str(HERE / "worker.py"), name, str(settings.seed), str(first), str(last), folder]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (HERE.parents[1], HERE)))}
        worker = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        number = first - 1
        try:
            for line in _lines(worker, settings.hang_s):
                if line.startswith("{"):
                    content = json.loads(line)
                    found.peak_mib = max(found.peak_mib, content.get("peak_mib", 0))
                    if "found" in content:
                        found.faults[content["case"]] = content["found"]
                else:
                    number = int(line)
        except TimeoutError:
            found.faults[number] = f"hang: more than {settings.hang_s:g} s"
            worker.kill()
        _, errors = worker.communicate()
    if worker.returncode and number not in found.faults:
        found.faults[number] = f"ended with {worker.returncode}: {errors[-2000:]}"
    if number < first:
        raise RuntimeError(f"{name}: the worker did not begin: {found.faults}")
    return number


def _lines(worker: subprocess.Popen[str], longest_s: float) -> Iterator[str]:
    """Yields the worker's lines. Raises TimeoutError when none comes for so long, or for its start three times."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def follow() -> None:
        assert worker.stdout is not None, "a pipe was asked for"
        for line in worker.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=follow, daemon=True).start()
    wait_s = 3 * longest_s
    while True:
        try:
            line = lines.get(timeout=wait_s)
        except queue.Empty:
            raise TimeoutError from None
        if not line:
            return
        yield line
        wait_s = longest_s


def main(settings: Fuzz) -> int:
    from targets import TARGETS

    faults = 0
    for name in settings.targets or tuple(TARGETS):
        found = fuzz(name, settings)
        faults += len(found.faults)
        sys.stdout.write(f"| {name} | {found.cases} | {len(found.faults)} | {found.peak_mib} MiB |\n")
        shown = {text.strip().splitlines()[-1]: (number, text) for number, text in sorted(found.faults.items())}
        for number, text in shown.values():
            sys.stdout.write(f"case {number}: {text}\n")
        sys.stdout.flush()
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Fuzz)))
