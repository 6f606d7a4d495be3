"""Never lose, never double: servers and actors are killed under load, and every segment is counted by id afterwards.

    load ──► kill -9, outage ──► load ──► … ──► actors send what is left ──► journals = rings = learner, id by id

The servers fsync once a second, so a killed one may come back without its latest commits; the actors' spools have them.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.faults.journal import Claims, Verdict, committed
from benchmarks.faults.stage import Stage
from benchmarks.measure import hardware, spread, table
from protos.errors import CorruptData, InputError

COLUMNS = (
    "scenario",
    "segments accepted",
    "acknowledged by the end",
    "lost",
    "doubled",
    "lost / doubled at the learner",
    "sent more than once",
    "going again after [s]",
)


@dataclass(frozen=True, kw_only=True)
class FaultsBench:
    """Kill servers and actors under load, and count what is lost or doubled. Exit code 2 unless both are 0."""

    actors: int = 4
    segments_per_s: float = 50.0
    """Segments per second of each actor, 16 transitions each, where servers and actors are killed."""
    outage_segments_per_s: float = 10.0
    """The rate of each actor where a server is away for long."""
    px: int = 64
    """Side of both cameras' images, stored raw: 0.4 MB per segment at 64."""
    server_kills: int = 20
    actor_kills: int = 20
    double_kills: int = 5
    """Server and all actors at once."""
    outage_s: float = 60.0
    shard_outage_s: float = 20.0
    """One of two servers is away for so long; the learner goes on with the other's segments."""
    load_s: float = 1.0
    """Load between two kills, on average."""
    folder: Path | None = None
    """Folder for the files of servers and spools, a few gigabytes; by default the system's temporary folder."""

    def __post_init__(self) -> None:
        if self.actors < 2 or self.actors % 2:
            raise InputError(f"actors={self.actors}: an even number, half of them for each of two servers")
        for name in ("segments_per_s", "outage_segments_per_s", "load_s"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)}: must be above 0")
        for name in ("server_kills", "actor_kills", "double_kills", "outage_s", "shard_outage_s"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)}: at least 0, which leaves the scenario out")


@dataclass(frozen=True)
class Scenario:
    """A scenario names what is killed, how often, and for how long."""

    name: str
    shards: int
    segments_per_s: float
    """Segments per second of each actor."""
    act: Callable[[FaultsBench, Stage], list[float]]
    """Kills and restarts; returns how long it took each time until work went on [s]."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of one scenario."""

    scenario: str
    claims: Claims
    server: Verdict
    learner: Verdict
    sent_again: int
    going_s: list[float]

    @property
    def faultless(self) -> bool:
        return not any((self.server.lost, self.server.doubled, self.learner.lost, self.learner.doubled))

    def row(self) -> tuple[object, ...]:
        accepted = f"{len(self.claims.accepted):,}"
        learner = f"{self.learner.lost} / {self.learner.doubled}"
        acknowledged = f"{self.claims.acknowledged:,}"
        return (
            self.scenario,
            accepted,
            acknowledged,
            self.server.lost,
            self.server.doubled,
            learner,
            f"{self.sent_again:,}",
            spread(self.going_s, 2),
        )


def run(settings: FaultsBench) -> str:
    """Markdown: a table of the scenarios. Raises CorruptData, with the table, if anything is lost or doubled."""
    reports = [_play(settings, scenario) for scenario in _scenarios(settings)]
    text = f"Machine: {hardware()}.\n\n" + table(COLUMNS, [report.row() for report in reports])
    if not all(report.faultless for report in reports):
        raise CorruptData(f"segments were lost or doubled\n\n{text}")
    return text


def _scenarios(settings: FaultsBench) -> list[Scenario]:
    """Returns the scenarios that the settings do not set to 0."""
    servers, actors, both = settings.server_kills, settings.actor_kills, settings.double_kills
    away_s, shard_away_s = settings.outage_s, settings.shard_outage_s
    often, seldom = settings.segments_per_s, settings.outage_segments_per_s
    known = [
        (servers, Scenario(f"server killed, {servers} ×", 1, often, _kill_server)),
        (actors, Scenario(f"an actor killed, {actors} ×", 1, often, _kill_actor)),
        (both, Scenario(f"server and all actors killed, {both} ×", 1, often, _kill_all)),
        (away_s, Scenario(f"server away for {away_s:g} s", 1, seldom, _outage)),
        (shard_away_s, Scenario(f"one of two servers away for {shard_away_s:g} s", 2, seldom, _shard_outage)),
    ]
    return [scenario for size, scenario in known if size]


def _play(settings: FaultsBench, scenario: Scenario) -> Report:
    with tempfile.TemporaryDirectory(prefix="twinrl-faults-", dir=settings.folder) as name:
        folder = Path(name)
        with Stage(
            folder,
            shards=scenario.shards,
            actors=settings.actors,
            segments_per_s=scenario.segments_per_s,
            px=settings.px,
        ) as stage:
            going_s = scenario.act(settings, stage)
            stage.finish(lambda: Claims.read(folder / "journals").accepted)
            claims = Claims.read(folder / "journals")
            rings = committed(stage.settings)
            received = stage.learner.received()
    return Report(
        scenario=scenario.name,
        claims=claims,
        server=Verdict.of(rings, claims),
        learner=Verdict.of(received, claims),
        sent_again=max(0, claims.commits - len(rings)),
        going_s=going_s,
    )


def _kill_server(settings: FaultsBench, stage: Stage) -> list[float]:
    going_s = []
    for load_s in _pauses(settings, settings.server_kills):
        stage.load(load_s)
        stage.kill_server()
        going_s.append(stage.restart_server())
    return going_s


def _kill_actor(settings: FaultsBench, stage: Stage) -> list[float]:
    going_s = []
    for number, load_s in enumerate(_pauses(settings, settings.actor_kills)):
        stage.load(load_s)
        actor = stage.actors[number % len(stage.actors)]
        actor.kill()
        going_s.append(stage.restart_actor(actor))
    return going_s


def _kill_all(settings: FaultsBench, stage: Stage) -> list[float]:
    going_s = []
    for load_s in _pauses(settings, settings.double_kills):
        stage.load(load_s)
        for kill in (*(actor.kill for actor in stage.actors), stage.kill_server):
            kill()
        going_s.append(stage.restart_all())
    return going_s


def _outage(settings: FaultsBench, stage: Stage) -> list[float]:
    stage.load(settings.load_s)
    stage.kill_server()
    stage.load(settings.outage_s)
    return [stage.restart_server()]


def _shard_outage(settings: FaultsBench, stage: Stage) -> list[float]:
    """The learner must get segments of the server that is up for as long as the other is down."""
    stage.load(settings.load_s)
    stage.kill_server(1)
    before = stage.received_from(0)
    stage.load(settings.shard_outage_s)
    if stage.received_from(0) <= before:
        raise CorruptData("the learner got nothing from one server while the other was down")
    return [stage.restart_server(1)]


def _pauses(settings: FaultsBench, count: int) -> list[float]:
    """Different each time, so that kills meet different moments of the server's log."""
    return [float(load_s) for load_s in np.random.default_rng(0).uniform(0.5, 1.5, count) * settings.load_s]
