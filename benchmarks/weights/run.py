"""New weights to many receivers: what it costs the learner, how soon all have them, and what holds when the way is bad.

publisher ──► python -m services.weights ──► subscribers        every box a process of its own
ways: bfloat16, float32, mutual TLS, a small head; beside them Ray's object store and a file

twinrl bench weights
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.measure import hardware, table, take_turns
from benchmarks.weights.checks import CHECKS, Scene
from benchmarks.weights.rounds import HEADER, Round, publish_rounds, row
from benchmarks.weights.setup import Fleet, Trust, WeightsServer, gathered
from benchmarks.weights.worker import Worker
from protos.errors import InputError
from services.weights import WireDtype

Way = Literal["bf16", "bf16-tls", "f32", "head", "head-tls", "ray", "file"]
Check = Literal["sleeper", "cut", "corrupt", "burst", "outage", "watchers", "watchers-tls"]
WAYS: tuple[Way, ...] = ("bf16", "bf16-tls", "f32", "head", "head-tls", "ray", "file")
PEERS = "benchmarks.weights.peers"


@dataclass(frozen=True, kw_only=True)
class WeightsBench:
    """Publish weights to subscribers in processes of their own, then see what holds when the way there is bad."""

    parameters: int = 27_000_000
    """Parameters of the policy; 54 MB as bfloat16, as octo-small."""
    head_parameters: int = 400_000
    """Parameters of the small head."""
    subscribers: int = 8
    rounds: int = 5
    """Versions per way and sweep, after a first one that is shown apart."""
    sweeps: int = 2
    """Number of turns of each way."""
    ways: tuple[Way, ...] = WAYS
    """`-tls`: with a token and mutual TLS; ray and file are the peers."""
    step: float = 1e-4
    """Largest change of a weight from one version to the next."""
    checks: tuple[Check, ...] = ("sleeper", "cut", "corrupt", "burst", "outage", "watchers", "watchers-tls")
    watchers: int = 200
    watcher_processes: int = 4
    watched_parameters: int = 100_000
    """Parameters of the head that all the watchers pull, once a second."""
    watch_s: float = 60.0
    folder: Path | None = None
    """Folder for stores, logs and certificates; by default a temporary one."""

    def __post_init__(self) -> None:
        for name in (
            "head_parameters",
            "subscribers",
            "rounds",
            "sweeps",
            "watchers",
            "watcher_processes",
            "watch_s",
            "step",
        ):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)}: must be above 0")


def run(settings: WeightsBench) -> str:
    """Markdown: a table of the ways, a table of the checks."""
    with _folder(settings.folder) as folder:
        trust = Trust.made(folder / "trust")
        parts = [f"Machine: {hardware()}."]
        if settings.ways:
            parts.append(_ways(settings, folder, trust))
        if settings.checks:
            parts.append(_checks(settings, folder, trust))
    return "\n\n".join(parts) + "\n"


def _ways(settings: WeightsBench, folder: Path, trust: Trust) -> str:
    systems: dict[str, Callable[[], list[Round]]] = {}
    for way in settings.ways:
        systems[way] = partial(_measure, settings, way, folder / way, trust)
    sweeps = take_turns(systems, settings.sweeps)
    return table(HEADER, [row(name, found, settings.subscribers) for name, found in sweeps.items()])


def _measure(settings: WeightsBench, way: Way, folder: Path, trust: Trust) -> list[Round]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    surroundings = {"ray": _ray, "file": _file}.get(way)
    if surroundings is not None:
        with surroundings(settings, folder) as fleet:
            return publish_rounds(fleet, settings.rounds, settings.step)
    kind, _, option = way.partition("-")
    wire: WireDtype = "f32" if kind == "f32" else "bf16"
    parameters = settings.head_parameters if kind == "head" else settings.parameters
    trust = trust if option == "tls" else Trust()
    with (
        WeightsServer(folder, trust.server) as server,
        gathered(
            server,
            folder,
            parameters=parameters,
            wire=wire,
            subscribers=settings.subscribers,
            trust=trust,
        ) as fleet,
    ):
        return publish_rounds(fleet, settings.rounds, settings.step)


@contextmanager
def _ray(settings: WeightsBench, folder: Path) -> Iterator[Fleet]:
    options = {"parameters": settings.parameters, "receivers": settings.subscribers}
    with Worker(f"{PEERS}:RayBroadcast", options, log=folder / "workers.log") as worker:
        yield Fleet(publisher=worker, receivers=[worker], pids=worker.ask("pids"))


@contextmanager
def _file(settings: WeightsBench, folder: Path) -> Iterator[Fleet]:
    path, log = str(folder / "weights.pt"), folder / "workers.log"
    with Worker(f"{PEERS}:FilePublisher", {"parameters": settings.parameters, "path": path}, log=log) as publisher:
        receivers = []
        try:
            for _ in range(settings.subscribers):
                receivers.append(Worker(f"{PEERS}:FileSubscriber", {"path": path}, log=log))
            pids = {"publisher": [publisher.pid], "subscribers": [worker.pid for worker in receivers]}
            yield Fleet(publisher=publisher, receivers=receivers, pids=pids)
        finally:
            for worker in receivers:
                worker.close()


def _checks(settings: WeightsBench, folder: Path, trust: Trust) -> str:
    rows = []
    for name in settings.checks:
        kind, _, tls = name.partition("-")
        check = CHECKS[kind]
        place = folder / f"check-{name}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        verdict = check(
            Scene(
                folder=place,
                parameters=settings.parameters // 2,  # as float32 as many bytes as the policy has as bfloat16
                subscribers=settings.subscribers,
                watchers=settings.watchers,
                watcher_processes=settings.watcher_processes,
                watched_parameters=settings.watched_parameters,
                watch_s=settings.watch_s,
                trust=trust if tls else Trust(),
            )
        )
        meaning = " ".join((check.__doc__ or "").split())
        rows.append((name, meaning, "holds" if verdict.passed else "**fails**", verdict.numbers))
    return table(("check", "what happens", "result", "numbers"), rows)


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="twinrl-bench-") as folder:
        yield Path(folder)
