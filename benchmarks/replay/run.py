"""Batches delivered to a learner while writers write: TwinRL's replay beside others', on the same steps, in one run.

steps (.npy) ─┬─► system A: writers, server, learner ──► rounds A, B, C, …, A, B, C, …
              ├─► system B                               batches/s, CPU per transition, ingest
              └─► …
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

from benchmarks.images import make_steps
from benchmarks.measure import hardware, spread, table, take_turns
from benchmarks.peers.protocol import SEGMENT_STEPS, Data, Job
from benchmarks.replay.ingest import ingest_table
from benchmarks.replay.systems import BASE, OURS, PEERS, STEPPED, Contender, Worker, interpreter
from benchmarks.replay.worker import segment_bytes
from protos.errors import InputError, Unreachable

Part = Literal["batches", "step", "ingest"]
SETUP_TIMEOUT_S = 300.0
ANSWER_MARGIN_S = 120.0
SEGMENTS = 24
"""Different segments; systems store them over and over."""
INGEST_RING_BYTES = 1 << 30

BATCH_COLUMNS = (
    "system",
    "batches/s",
    f"{BASE}: times as many",
    "learner + server CPU per transition [µs]",
    "writers' CPU per transition written [µs]",
    "ingest [transitions/s]",
    "resident [GiB]",
)
STEP_COLUMNS = ("system", "steps/s", "waiting for batches [%]", "ingest [transitions/s]")

Results = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class ReplayBench:
    """Measure delivered batches, a learner's waiting and ingest, beside other replays on the same data."""

    parts: tuple[Part, ...] = ("batches", "step", "ingest")
    rounds: int = 3
    """Number of turns of each system."""
    seconds: float = 6.0
    """Length of one turn, after the warm-up."""
    warm_up_s: float = 2.0
    batch: int = 256
    capacity: int = 4000
    """Transitions that each system holds."""
    writers: int = 4
    rate: float = 400.0
    """Transitions per second that all writers offer together."""
    step_s: float = 0.1
    """Step of the learner, in the second table."""
    side_px: int = 256
    wrist_px: int = 128
    only: tuple[str, ...] = ()
    """Systems whose names contain one of these words, beside the first; by default all."""
    no_peers: bool = False
    """TwinRL's own replay only."""
    peers: Path = field(default_factory=lambda: Path.home() / ".cache" / "twinrl" / "peers")
    """Folder in which other replays are installed, each in an environment of its own, on first use."""
    folder: Path | None = None
    """Folder for the files of servers and spools, a few gigabytes; by default the system's temporary folder."""
    quick: bool = False
    """One short round each and few transitions: shows that everything runs, and no more than that."""

    def __post_init__(self) -> None:
        for name in ("rounds", "seconds", "warm_up_s", "batch", "writers", "rate", "step_s"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)}: must be above 0")
        if self.capacity < 10 * SEGMENT_STEPS:
            raise InputError(f"capacity={self.capacity}: at least {10 * SEGMENT_STEPS}")

    def chosen(self, contenders: Mapping[str, Contender]) -> dict[str, Contender]:
        """Returns the systems that `only` names, and the first."""
        words = self.only or ("",)
        first = next(iter(contenders))
        return {name: each for name, each in contenders.items() if name == first or any(w in name for w in words)}

    def job(self, data: Path, folder: Path, options: Mapping[str, object]) -> Job:
        """Returns the job of one system's worker."""
        folder.mkdir(parents=True)
        return Job(
            data=str(data),
            folder=str(folder),
            capacity=self.capacity,
            batch=self.batch,
            writers=self.writers,
            options=options,
        )


def run(settings: ReplayBench) -> str:
    """Markdown: one table per part."""
    if settings.quick:
        settings = replace(settings, rounds=1, seconds=min(settings.seconds, 2.0), capacity=min(settings.capacity, 800))
    parts = {"batches": _batches, "step": _steps, "ingest": _ingest}
    texts = [f"Machine: {hardware()}."]
    with tempfile.TemporaryDirectory(prefix="twinrl-", dir=settings.folder) as name:
        data = make_steps(Path(name) / "steps", segments=SEGMENTS, side_px=settings.side_px, wrist_px=settings.wrist_px)
        for part in settings.parts:
            texts.append(parts[part](settings, data, Path(name) / part))
    return "\n\n".join(texts)


def _batches(settings: ReplayBench, data: Path, folder: Path) -> str:
    contenders = settings.chosen(OURS if settings.no_peers else {**OURS, **PEERS})
    found, absent = _measure(settings, data, folder, contenders, step_s=0.0)
    rows = [_batch_row(settings, name, results, found[BASE]) for name, results in found.items()]
    return table(BATCH_COLUMNS, rows) + _absent(absent)


def _steps(settings: ReplayBench, data: Path, folder: Path) -> str:
    found, _ = _measure(settings, data, folder, settings.chosen(STEPPED), step_s=settings.step_s)
    return table(STEP_COLUMNS, [_step_row(name, results) for name, results in found.items()])


def _ingest(settings: ReplayBench, data: Path, folder: Path) -> str:
    codec = "jpeg"
    return ingest_table(
        settings.job(data, folder, {"codec": codec, "capacity_bytes": INGEST_RING_BYTES}),
        rounds=settings.rounds,
        seconds=settings.seconds,
        warm_up_s=settings.warm_up_s,
        transition_bytes=segment_bytes(Data(str(data)), codec) / SEGMENT_STEPS,
    )


def _measure(
    settings: ReplayBench, data: Path, folder: Path, contenders: Mapping[str, Contender], *, step_s: float
) -> tuple[dict[str, Results], dict[str, str]]:
    """Each system's rounds, and why those that are missing did not run; ours must run."""
    order = {"seconds": settings.seconds, "rate": settings.rate, "warm_up_s": settings.warm_up_s, "step_s": step_s}
    limit_s = settings.seconds + settings.warm_up_s + ANSWER_MARGIN_S
    absent, workers = {}, {}
    with ExitStack() as stack:
        for number, (name, contender) in enumerate(contenders.items()):
            job = settings.job(data, folder / str(number), contender.options)
            try:
                python = interpreter(contender.peer, settings.peers)
            except InputError as error:
                absent[name] = str(error)
                continue
            worker = Worker(contender.peer, python, job, log_file=folder / f"{number}.log")
            workers[name] = stack.enter_context(worker)
        for name, worker in list(workers.items()):
            try:
                worker.answer(SETUP_TIMEOUT_S)
            except Unreachable as error:
                if contenders[name].peer is None:
                    raise
                absent[name] = str(error)
                workers.pop(name)
        turns = {name: partial(_turn, name, contenders, each, order, limit_s, absent) for name, each in workers.items()}
        found = take_turns(turns, settings.rounds)
    whole = {name: [each for each in results if each is not None] for name, results in found.items()}
    return {name: results for name, results in whole.items() if name not in absent}, absent


def _turn(
    name: str,
    contenders: Mapping[str, Contender],
    worker: Worker,
    order: Mapping[str, float],
    limit_s: float,
    absent: dict[str, str],
) -> dict[str, float] | None:
    """One turn; a peer that fails is out, with the reason in `absent`."""
    if name in absent:
        return None
    try:
        return worker.ask(order, limit_s)
    except Unreachable as error:
        if contenders[name].peer is None:
            raise
        absent[name] = str(error)
        return None


def _batch_row(settings: ReplayBench, name: str, results: Results, base: Results) -> Sequence[object]:
    per_s = [each["batches"] / each["seconds"] for each in results]
    ours = [each["batches"] / each["seconds"] for each in base]
    ratios = [mine / theirs for mine, theirs in zip(ours, per_s, strict=True)]
    return (
        name,
        spread(per_s, 1),
        f"{median(ratios):.1f}",
        spread([1e6 * each["cpu_s"] / (each["batches"] * settings.batch) for each in results]),
        spread([1e6 * each["writer_cpu_s"] / max(each["written"], 1) for each in results]),
        spread([each["written"] / each["seconds"] for each in results]),
        f"{max(each['resident_bytes'] for each in results) / 2**30:.1f}",
    )


def _step_row(name: str, results: Results) -> Sequence[object]:
    return (
        name,
        spread([each["batches"] / each["seconds"] for each in results], 2),
        spread([100 * each["waited_s"] / each["seconds"] for each in results], 2),
        spread([each["written"] / each["seconds"] for each in results]),
    )


def _absent(reasons: Mapping[str, str]) -> str:
    return "".join(f"\n\nNot measured: {name}: {reason}" for name, reason in reasons.items())
