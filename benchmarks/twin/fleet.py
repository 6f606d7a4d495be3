"""This module runs many twin actors on one machine and measures their cost, their rate, and recovery from kills.

    real policy server (tiny policy, random weights) ◄── weights service          kill -9 of some, by their process ids
       │                                                                   │
       └──────────── twin actors × n, each a Ray actor ──► embedded Valkey ▼
                          └── steps, lives ──► longest gap, recovery of each

Everything but the policy's weights is what a run starts.
"""

import os
import random
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median

import psutil

from actors.sim import FleetSettings, TwinWorld
from actors.sim.fleet import Fleet
from benchmarks.measure import cpu_seconds, descendants, table
from benchmarks.weights.setup import WeightsServer
from protos.errors import TwinRLError
from protos.schema import Schema
from services.replay import EmbeddedServer, ReplaySettings, totals
from twin.scene import synthetic_scene

START_TIMEOUT_S = 1200.0
RECOVERY_TIMEOUT_S = 120.0
POLL_S = 0.2
COLUMNS = (
    "actors",
    "twins each",
    "start",
    "until all step [s]",
    "CPU to start [s/actor]",
    "PSS / USS [MB/actor]",
    "PSS of all [GB]",
    "steps/s",
    "steps/CPU s",
    "longest gap: median / worst [s]",
    "killed, back",
    "slowest back [s]",
    "restarts",
    "stalls",
)
STEADY_S = 5.0
"""Pause after the last actor's first step, before the measurement begins."""


def fork_servers() -> list[int]:
    """Process ids of the fork servers of this process's raylet."""
    raylets = [process.pid for process in psutil.Process().children() if process.name() == "raylet"]
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "actors.sim.fork_server" in command and any(f"/{raylet}-" in command for raylet in raylets):
            found.append(process.pid)
    return found


@dataclass
class Track:
    """One actor over time, as its fleet hears of it."""

    incarnation: str = ""
    dead: str = ""  # the incarnation that was killed
    pid: int = 0
    turns: int = 0
    moved: float = 0.0  # when `turns` last rose
    longest_gap_s: float = 0.0
    killed: float | None = None  # when, while it is not back
    recovered_s: list[float] = field(default_factory=list)


class Tracks:
    """All actors of a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.all = [Track() for _ in fleet.actors]

    def update(self) -> None:
        """Asks the fleet, which asks its actors."""
        self._fleet.supervise()
        now = time.monotonic()
        for index, stats in self._fleet.stats.items():
            track, turns = self.all[index], sum(stats.get("turns", []))
            if stats["incarnation"] == track.dead:
                continue
            if stats["incarnation"] != track.incarnation:
                track.incarnation, track.pid, track.turns = stats["incarnation"], stats["pid"], 0
            if turns > track.turns:
                self._moved(track, turns, now)

    def _moved(self, track: Track, turns: int, now: float) -> None:
        if track.killed is not None:
            track.recovered_s.append(now - track.killed)
            track.killed = None
        elif track.moved:
            track.longest_gap_s = max(track.longest_gap_s, now - track.moved)
        track.turns, track.moved = turns, now

    def pids(self) -> list[int]:
        """Everything that runs for the fleet, what its fork server forked included."""
        return descendants(os.getpid()) + [pid for server in fork_servers() for pid in descendants(server)]

    def stepping(self) -> int:
        return sum(track.turns > 0 for track in self.all)

    def forget_gaps(self) -> None:
        for track in self.all:
            track.longest_gap_s, track.moved = 0.0, 0.0

    def kill(self, index: int) -> None:
        """SIGKILL of one actor's process."""
        track = self.all[index]
        os.kill(track.pid, signal.SIGKILL)
        track.killed = time.monotonic()
        track.dead, track.turns = track.incarnation, 0


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """One fleet to be measured."""

    actors: int
    twins: int
    seconds: float
    kills: int
    px: int = 64
    groups: int = 1
    warm: bool = True


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The work and the cost of a fleet."""

    plan: FleetPlan
    start_s: float
    start_cpu_s: float
    """CPU time of all processes until the last actor stepped."""
    seconds: float
    steps: int
    """Transitions that reached the replay."""
    cpu_s: float
    actor_mb: tuple[float, float]
    """Mean PSS and USS of an actor."""
    all_mb: float
    """PSS of everything that runs for the fleet: Ray, replay, weights, policy server, fork server, actors, driver."""
    gap_s: float
    """Longest time between two steps: median over actors, and of the worst. Killed lives are not counted."""
    longest_gap_s: float
    recovered_s: tuple[float, ...]
    """Seconds from each kill to the next step of the actor."""
    restarts: int
    stalls: int


@contextmanager
def running_fleet(plan: FleetPlan) -> Iterator[tuple[Fleet, ReplaySettings]]:
    """A fleet with everything around it, in a folder that is deleted afterwards."""
    from policy.model import Policy
    from policy.settings import preset
    from protos.settings import to_json
    from services.weights import WeightPublisher

    with tempfile.TemporaryDirectory(prefix="twinrl-bench-") as name:
        folder = Path(name)
        synthetic_scene().save(folder / "scene")
        tiny = preset("tiny")
        policy = Policy(replace(tiny, octo=replace(tiny.octo, side_px=plan.px, wrist_px=plan.px)))
        policy.freeze_backbone()
        with EmbeddedServer(folder / "valkey") as server, WeightsServer(folder / "weights") as weights:
            with closing(WeightPublisher(weights.address, wire_dtype="f32")) as publisher:
                publisher.publish(policy.parts(), settings={"policy": to_json(policy.settings)})
                publisher.wait(60.0)
            replay = ReplaySettings(urls=(server.url,))
            settings = FleetSettings(
                world=TwinWorld(scene=folder / "scene", schema=Schema(side_px=plan.px, wrist_px=plan.px)),
                replay=replay,
                weights=weights.address,
                run_dir=folder,
                actors=plan.actors,
                twins_per_actor=plan.twins,
                groups=plan.groups,
                warm_start=plan.warm,
                stall_s=180.0,
                call_timeout_s=120.0,
            )
            with Fleet(settings) as fleet:  # Ray forks: the publisher and its gRPC threads have ended by now
                yield fleet, replay


def measure(plan: FleetPlan) -> Outcome:
    """Starts the fleet, lets it step for so long, kills actors at even distances, and takes everything down again."""
    began = time.monotonic()
    with running_fleet(plan) as (fleet, replay):
        tracks = Tracks(fleet)
        _until_all_step(tracks)
        start_s, start_cpu_s = time.monotonic() - began, cpu_seconds(tracks.pids())
        time.sleep(STEADY_S)
        tracks.update()
        tracks.forget_gaps()
        steps, cpu, started = totals(replay)["twin"], cpu_seconds(tracks.pids()), time.monotonic()
        memory, all_mb = _watch(tracks, plan, started)
        passed, gaps = time.monotonic() - started, [track.longest_gap_s for track in tracks.all]
        rates = fleet.supervise()
        return Outcome(
            plan=plan,
            start_s=start_s,
            start_cpu_s=start_cpu_s,
            seconds=passed,
            steps=totals(replay)["twin"] - steps,
            cpu_s=cpu_seconds(tracks.pids()) - cpu,
            actor_mb=memory,
            all_mb=all_mb,
            gap_s=median(gaps),
            longest_gap_s=max(gaps),
            recovered_s=tuple(s for track in tracks.all for s in track.recovered_s),
            restarts=int(rates["restarts"]),
            stalls=int(rates["stalls"]),
        )


def _watch(tracks: Tracks, plan: FleetPlan, started: float) -> tuple[tuple[float, float], float]:
    """Lets the fleet step, and kills; returns mean PSS and USS of an actor and PSS of all, read halfway [MB]."""
    victims = random.Random(0).sample(range(plan.actors), plan.kills)
    pause = plan.seconds / (plan.kills + 1)
    memory, everything = (0.0, 0.0), 0.0
    while True:
        passed = time.monotonic() - started
        away = any(track.killed is not None for track in tracks.all)
        if passed > plan.seconds and (not away or passed > plan.seconds + RECOVERY_TIMEOUT_S):
            return memory, everything
        if victims and passed > (plan.kills - len(victims) + 1) * pause:
            tracks.kill(victims.pop())
        tracks.update()
        if not everything and passed > plan.seconds / 2:
            pss, uss = memory_mb([track.pid for track in tracks.all if track.killed is None])
            memory, everything = (mean(pss), mean(uss)), sum(memory_mb(tracks.pids())[0])
        time.sleep(POLL_S)


def _until_all_step(tracks: Tracks) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while tracks.stepping() < len(tracks.all):
        if time.monotonic() > deadline:
            raise TwinRLError(f"{tracks.stepping()} of {len(tracks.all)} actors stepped within {START_TIMEOUT_S:.0f} s")
        tracks.update()
        time.sleep(POLL_S)


def memory_mb(pids: Iterable[int]) -> tuple[list[float], list[float]]:
    """PSS and USS of each: shared pages divided among those who share them, and pages of one's own."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid).memory_full_info())
    return [one.pss / 1e6 for one in found], [one.uss / 1e6 for one in found]


def fleet_table(plans: Sequence[FleetPlan]) -> str:
    """One row per fleet."""
    return table(COLUMNS, [_row(measure(plan)) for plan in plans])


def _row(found: Outcome) -> tuple[object, ...]:
    plan = found.plan
    recovered = f"{max(found.recovered_s):.0f}" if found.recovered_s else "-"
    return (
        plan.actors,
        plan.twins,
        "warm" if plan.warm else "cold",
        f"{found.start_s:.0f}",
        f"{found.start_cpu_s / plan.actors:.2f}",
        f"{found.actor_mb[0]:.0f} / {found.actor_mb[1]:.0f}",
        f"{found.all_mb / 1e3:.1f}",
        f"{found.steps / found.seconds:,.0f}",
        f"{found.steps / found.cpu_s:,.0f}",
        f"{found.gap_s:.1f} / {found.longest_gap_s:.1f}",
        f"{len(found.recovered_s)} of {plan.kills}",
        recovered,
        found.restarts,
        found.stalls,
    )
