"""The systems that the replay benchmark compares, and the environments and processes of those that are not ours.

worker (a process per system) ◄──JSON lines──► benchmark
ours: this interpreter        peers: DIR/<peer>/bin/python, made on first use from the pins below
"""

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.measure import descendants
from benchmarks.peers.protocol import Job
from protos.errors import InputError, Unreachable

log = logging.getLogger(__name__)

INSTALL_TIMEOUT_S = 1800.0
CLOSE_TIMEOUT_S = 30.0

PINS: Mapping[str, tuple[str, ...]] = {
    "reverb": ("dm-reverb==0.14.0", "tensorflow==2.15.1", "numpy==1.26.4"),
}
"""Each peer has an environment of its own: dm-reverb needs an older numpy than TwinRL."""
REUSE_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36)}
"""Environment of peers, which allocate every batch anew: glibc then keeps the pages instead of returning them each
time.
"""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One system in one configuration."""

    peer: str | None = None
    """A key of `PINS`; None: ours."""
    options: Mapping[str, Any] = field(default_factory=dict)


def ours(codec: str, *, images: str, prefetch: int, threads: int) -> Contender:
    return Contender(options={"codec": codec, "images": images, "prefetch": prefetch, "threads": threads})


def reverb(*, own_process: bool, chunk: int) -> Contender:
    """Returns Reverb with the settings that gave most batches of those tried, see docs/benchmarks.md; chunk 0:
    Reverb's choice.
    """
    options = {"own_process": own_process, "chunk": chunk, "workers": 2, "in_flight": 512}
    return Contender(peer="reverb", options=options)


AHEAD = {"prefetch": 3, "threads": 2}
"""Options of a reader that prefetches by two threads, as the peers do by two workers."""
BASE = "TwinRL, JPEG, mirror"
OURS: Mapping[str, Contender] = {
    BASE: ours("jpeg", images="memory", **AHEAD),
    "TwinRL, JPEG, file": ours("jpeg", images="file", **AHEAD),
    "TwinRL, raw, mirror": ours("raw", images="memory", **AHEAD),
    "TwinRL, raw, direct": ours("raw", images="server", **AHEAD),
    "TwinRL, JPEG, direct": ours("jpeg", images="server", **AHEAD),
}
PEERS: Mapping[str, Contender] = {
    "dm-reverb, in the learner's process": reverb(own_process=False, chunk=2),
    "dm-reverb, in a process of its own": reverb(own_process=True, chunk=0),
}
STEPPED: Mapping[str, Contender] = {
    f"TwinRL, {name}, {when}": ours(codec, images=images, prefetch=prefetch, threads=1)
    for name, codec, images in (("JPEG, mirror", "jpeg", "memory"), ("raw, direct", "raw", "server"))
    for when, prefetch in (("prefetch 2", 2), ("no prefetch", 0))
}


def interpreter(peer: str | None, folder: Path) -> Path:
    """This Python for None; else that of a peer's environment, made first if it is missing or its pins have changed.

    Raises InputError with pip's last words.
    """
    if peer is None:
        return Path(sys.executable)
    place, marker = folder / peer, folder / peer / "pins.txt"
    pins = "\n".join(PINS[peer])
    python = place / "bin" / "python"
    if marker.exists() and marker.read_text() == pins:
        return python
    log.warning("making the environment %s (%s); this takes minutes, once", place, ", ".join(PINS[peer]))
    place.mkdir(parents=True, exist_ok=True)
    _install([sys.executable, "-m", "venv", str(place)], peer)
    _install([str(python), "-m", "pip", "install", "--quiet", *PINS[peer]], peer)
    marker.write_text(pins)
    return python


def _install(command: Sequence[str], peer: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"installing {peer} took over {INSTALL_TIMEOUT_S:g} s; use --no-peers") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise InputError(f"{peer} cannot be installed here ({' '.join(last)}); use --no-peers")


class Worker:
    """A system in a process of its own. Ends with everything it started."""

    def __init__(self, peer: str | None, python: Path, job: Job, *, log_file: Path) -> None:
        self._name = f"the worker of {peer or 'TwinRL'}"
        module, environment = _module(peer)
        command = [str(python), "-m", module]
        self._log_file = log_file
        with log_file.open("ab") as output:
            self._process = subprocess.Popen(
                command, env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output
            )
        self._tell(asdict(job))

    def ask(self, order: Mapping[str, float], timeout_s: float) -> dict[str, float]:
        self._tell(order)
        return self.answer(timeout_s)

    def answer(self, timeout_s: float) -> dict[str, float]:
        """The next answer. Raises Unreachable with the worker's last words when it ends or is late."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            in_time = bool(selector.select(timeout_s))
        line = self._process.stdout.readline() if in_time else b""
        if line:
            answer: dict[str, float] = json.loads(line)
            return answer
        state = "ended" if in_time else f"did not answer within {timeout_s:g} s"  # readable without a line: its end
        words = self._log_file.read_text(errors="replace").strip().splitlines()[-1:]
        raise Unreachable(f"{self._name} {state}: {' '.join(words)}")

    def close(self) -> None:
        """Lets it end by itself for a while, then kills it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.warning("%s did not end within %g s and is killed", self._name, CLOSE_TIMEOUT_S)
            self.kill()
        self._process.stdout.close()

    def kill(self) -> None:
        """Ends it at once, with everything that it started."""
        for pid in descendants(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, order: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: `answer` says so, with its last words
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()


def _module(peer: str | None) -> tuple[str, dict[str, str]]:
    """Returns the module to run and what to add to its environment."""
    if peer is None:
        return "benchmarks.replay.worker", {}
    return f"peers.{peer}_peer", {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), **REUSE_MEMORY}
