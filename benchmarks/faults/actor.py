"""An actor that only writes: real segments through a real ReplayWriter, journalled; killed and started at will.

`FaultActor` is the handle in the benchmark's process; `python -m benchmarks.faults.actor FILE` is the actor. It writes
until its stdin ends, then sends what is left and ends with 0, or with 1 if something could not be sent.
"""

import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.faults.journal import BUFFER, Journal
from protos.episode import Segment
from protos.schema import ACTION_DIM, PROPRIO_DIM, SEGMENT_STEPS, Configuration, Observation, Outcome, Schema, Source
from protos.settings import load_settings, save_settings
from services.replay import ReplaySettings, ReplayWriter

DRAIN_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class ActorJob:
    """One life of an actor."""

    replay: ReplaySettings
    actor: str
    incarnation: str
    folder: Path
    """The scenario's: spools and journals lie in it."""
    segments_per_s: float
    px: int
    """Side of the images of both cameras."""


class FaultActor:
    """An actor process; each start is a new incarnation on the same spool."""

    def __init__(self, job: ActorJob) -> None:
        self._job = job
        self._lives = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self._job.actor

    @property
    def incarnation(self) -> str:
        """State of the incarnation that was started last."""
        return f"life{self._lives}"

    def start(self) -> None:
        self._lives += 1
        job = replace(self._job, incarnation=self.incarnation)
        path = save_settings(job, job.folder / "jobs" / f"{job.actor}.json")
        with (job.folder / f"{job.actor}.log").open("ab") as log:
            command = [sys.executable, "-m", "benchmarks.faults.actor", str(path)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL, at whatever it was doing."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def finish(self) -> None:
        """Lets it write no more; `wait` for what it still sends."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> bool:
        """True if it has sent everything."""
        assert self._process is not None
        try:
            return self._process.wait(DRAIN_TIMEOUT_S + 10) == 0
        except subprocess.TimeoutExpired:
            self.kill()
            return False


def make_segment(rng: np.random.Generator, px: int) -> Segment:
    """A whole episode of 16 steps in one segment."""
    rows = SEGMENT_STEPS + 1
    side, wrist = rng.integers(0, 256, (2, rows, px, px, 3), np.uint8)
    return Segment(
        task="benchmark",
        scene="noise",
        instruction="Put the cube on the disc.",
        configuration=Configuration(region="A"),
        episode="none",
        first_step=0,
        outcome=Outcome.SUCCESS,
        source=Source.TWIN,
        policy_versions=(1, 1),
        backbone_id="",
        observation=Observation(
            side=side, wrist=wrist, proprio=rng.normal(size=(rows, PROPRIO_DIM)).astype(np.float32)
        ),
        action=rng.uniform(-1, 1, (SEGMENT_STEPS, ACTION_DIM)).astype(np.float32),
        reward=np.zeros(SEGMENT_STEPS, np.float32),
        human=np.zeros(SEGMENT_STEPS, np.bool_),
    )


def write_until(stop: threading.Event, job: ActorJob) -> bool:
    """Writes and journals; True if all was sent in the end."""
    journal = Journal(job.folder / "journals", job.actor, job.incarnation)
    schema = Schema(side_px=job.px, wrist_px=job.px)
    segment = make_segment(np.random.default_rng(0), job.px)
    spool = job.folder / "spools" / job.actor
    seq = 0
    with ReplayWriter(
        job.replay, schema, actor=job.actor, incarnation=job.incarnation, spool=spool, codec="raw"
    ) as writer:
        while not stop.wait(1.0 / job.segments_per_s):
            dropped = writer.stats()["dropped"]
            journal.begin(seq)
            writer.add(replace(segment, episode=f"{job.actor}={job.incarnation}={seq}"), [BUFFER])
            if writer.stats()["dropped"] == dropped:
                journal.accepted(seq)
                seq += 1
            _note(writer, journal, seq)
        left = writer.flush(DRAIN_TIMEOUT_S)
        _note(writer, journal, seq)
    return left == 0


def _note(writer: ReplayWriter, journal: Journal, accepted: int) -> None:
    stats = writer.stats()
    acknowledged = max(0, accepted - writer.unsent())  # what earlier incarnations left is sent before
    journal.sent(acknowledged, int(stats["sent"]), int(stats["repeated"]))


def _await_end_of_stdin(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()


def main(arguments: Sequence[str]) -> int:
    job = load_settings(ActorJob, Path(arguments[0]))
    stop = threading.Event()
    threading.Thread(target=_await_end_of_stdin, args=(stop,), daemon=True).start()
    return 0 if write_until(stop, job) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
