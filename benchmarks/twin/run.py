"""This benchmark measures a twin step, how many twins fit on a machine, and a fleet whose actors are killed.

twinrl bench twin                                              stages, renderer, MuJoCo's own renderer, small fleets
twinrl bench twin --parts fleet --actors 200 --twins 2 --seconds 300 --kill 5
twinrl bench twin --parts groups                               what double buffering is worth
twinrl bench twin --parts experts --trials 100                 every task's expert in regions A and B
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.measure import hardware, table
from protos.errors import InputError
from twin import tasks
from twin.scene import Scene, synthetic_scene

GROUP_SIZES = ((1, 2), (1, 8), (2, 8))
"""Actors, and twins of each, for which one group is compared with two."""

Part = Literal["stages", "render", "peers", "fleet", "groups", "experts"]


@dataclass(frozen=True, kw_only=True)
class TwinBench:
    """CPU time of twin steps by stage, beside peers; fleets of twin actors: memory, rate, gaps, kills."""

    parts: tuple[Part, ...] = ("stages", "render", "peers", "fleet")
    task: str = "pick_and_place"
    scene: Path | None = None
    """Scene folder; the synthetic table by default."""
    px: int = 128
    """Side of both images where stages and peers are measured; fleets use the demo's 64."""
    steps: int = 400
    """Twin steps of a measurement, three of which give a median."""
    batch: tuple[int, ...] = (1, 2, 8, 32)
    """Twins that are stepped together."""
    actors: int = 4
    twins: int = 2
    """Twins of each actor."""
    seconds: float = 30.0
    """Time for which a fleet steps, after its last actor has started."""
    kill: int = 1
    """Actors that are killed meanwhile, by SIGKILL."""
    groups: int = 1
    """Groups of each actor."""
    cold: bool = False
    """Actors start by themselves and not from the fork server."""
    trials: int = 100
    """Episodes of each expert in each region."""
    quick: bool = False
    """Shows that it runs: few steps of few twins, no peers, no fleet."""

    def __post_init__(self) -> None:
        for name in ("steps", "actors", "twins", "groups", "trials"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: at least 1")
        if not 0 <= self.kill <= self.actors:
            raise InputError(f"kill={self.kill}: 0 to the {self.actors} actors")
        if not self.seconds > 0:
            raise InputError(f"seconds={self.seconds}: must be above 0")


def run(settings: TwinBench) -> str:
    """Markdown: a table for each part."""
    if settings.quick:
        settings = replace(settings, parts=("stages", "experts"), steps=10, batch=(2,), px=32, trials=2)
    scene = synthetic_scene() if settings.scene is None else Scene.load(settings.scene)
    texts = [f"Machine: {hardware()}."]
    for part in settings.parts:
        texts.append(PARTS[part](settings, scene))
    return "\n\n".join(texts)


def _stages(settings: TwinBench, scene: Scene) -> str:
    from benchmarks.twin.stages import stage_table

    return stage_table(scene, settings.task, twins=settings.batch, px=settings.px, steps=settings.steps)


def _render(settings: TwinBench, scene: Scene) -> str:
    from benchmarks.twin.render import render_table

    return render_table()


def _peers(settings: TwinBench, scene: Scene) -> str:
    from benchmarks.twin.peers import peer_table

    return peer_table(scene, settings.task, px=settings.px, steps=settings.steps)


def _fleet(settings: TwinBench, scene: Scene) -> str:
    from benchmarks.twin.fleet import FleetPlan, fleet_table

    plan = FleetPlan(
        actors=settings.actors,
        twins=settings.twins,
        seconds=settings.seconds,
        kills=settings.kill,
        groups=settings.groups,
        warm=not settings.cold,
    )
    return fleet_table([plan])


def _groups(settings: TwinBench, scene: Scene) -> str:
    from benchmarks.twin.groups import group_table

    return group_table(sizes=GROUP_SIZES, seconds=settings.seconds)


def _experts(settings: TwinBench, scene: Scene) -> str:
    from twin.env import trials
    from twin.randomize import DEMONSTRATION_DISTURBANCE, DOMAINS

    worlds = {
        "twin": DOMAINS["twin"],
        "shaken": replace(DOMAINS["twin"], disturbance=DEMONSTRATION_DISTURBANCE),
        "stand-in": DOMAINS["standin"],
    }
    rows = []
    for name in tasks.names():
        for region in tasks.get(name).space.regions:
            found = [trials(tasks.get(name), domain, region, settings.trials, seed=0) for domain in worlds.values()]
            steps = " / ".join(f"{one.steps[one.success].mean():.0f}" if one.successes else "–" for one in found)
            cpu_s = f"{sum(one.cpu_s for one in found):.1f}"
            rows.append((name, region, *(f"{one.successes} of {settings.trials}" for one in found), steps, cpu_s))
    return table(("task", "region", *worlds, "mean steps to success", "CPU [s]"), rows)


PARTS: Mapping[Part, Callable[[TwinBench, Scene], str]] = {
    "stages": _stages,
    "render": _render,
    "peers": _peers,
    "fleet": _fleet,
    "groups": _groups,
    "experts": _experts,
}
