"""This module measures where the CPU time of twin steps goes: the episode loop as actors run it, with a clock at every
stage.

    physics ─ IK ─ task │ move splats ─ side image ─ wrist image ─ copy │ loop, recorder

Time is the thread's own CPU time; the twins of a row are stepped by one thread.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from actors import Decision, EpisodeLoop, EpisodeRecorder, EpisodeResult, EpisodeTags
from benchmarks.measure import table
from protos.episode import Segment
from protos.schema import Bools, Configuration, Observation, Schema, Source
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import DOMAINS
from twin.scene import Scene

STAGES = ("physics", "IK", "move splats", "side image", "wrist image", "copy", "task", "loop, recorder")
WARM_UP_STEPS = 3


class Clock:
    """Thread CPU seconds by stage; what a stage calls counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[float] = []

    def timed(self, stage: str | Callable[..., str], call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, with its time added to `stage` (or to what `stage` says of the call's arguments)."""

        def measured(*arguments: Any, **named: Any) -> Any:
            self._open.append(0.0)
            started = time.thread_time()
            try:
                return call(*arguments, **named)
            finally:
                spent = time.thread_time() - started
                name = stage if isinstance(stage, str) else stage(*arguments)
                self.seconds[name] += spent - self._open.pop()
                if self._open:
                    self._open[-1] += spent

        return measured


class Wander:
    """A policy that costs next to nothing: a new random direction now and then."""

    window = 1

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def ready(self) -> str:
        return ""

    def act(self, observation: Observation, pad: Bools | None = None) -> Decision:
        action = self._rng.uniform(-1, 1, (len(observation), 7)).astype(np.float32)
        return Decision(action=action, embedding=None, version=-1, backbone_id="")


class AnyStart:
    """Starts from all over the task's space."""

    def __init__(self, task: tasks.base.Task) -> None:
        self._space, self._rng = task.space, np.random.default_rng(0)

    def next(self) -> Configuration:
        return self._space.sample(self._rng)

    def report(self, result: EpisodeResult) -> None:
        """Records nothing."""


class Nowhere:
    def add(self, segment: Segment) -> None:
        """Encoding and sending are measured by `twinrl bench replay`."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Milliseconds of thread CPU time per twin and step, by stage."""

    ms: dict[str, float]

    def steps_per_s(self, *, without: str = "") -> float:
        """Twin steps per CPU second, with one stage left out."""
        return 1000 / (sum(self.ms.values()) - self.ms.get(without, 0.0))


def measure(scene: Scene, task: str, *, twins: int, px: int, steps: int, rounds: int = 3) -> Cost:
    """Median over rounds of so many steps of one loop."""
    twin = VectorTwin(
        scene,
        tasks.get(task),
        n=twins,
        domain=DOMAINS["twin"],
        seed=0,
        schema=Schema(side_px=px, wrist_px=px),
    )
    tags = EpisodeTags(actor="bench", incarnation="0", task=task, scene=scene.name, instruction="", source=Source.TWIN)
    _run(EpisodeLoop(twin, Wander(0), AnyStart(twin.task), EpisodeRecorder(tags), Nowhere()), WARM_UP_STEPS)
    clock = Clock()
    _instrument(twin, clock)
    loop = EpisodeLoop(twin, Wander(1), AnyStart(twin.task), EpisodeRecorder(tags), Nowhere())
    found = []
    for _ in range(rounds):
        clock.seconds.clear()
        before = loop.stats.steps
        clock.timed("loop, recorder", lambda: _run(loop, steps))()
        found.append({name: 1e3 * s / (loop.stats.steps - before) for name, s in clock.seconds.items()})
    twin.close()
    return Cost(ms={name: median(one.get(name, 0.0) for one in found) for name in STAGES})


def _run(loop: EpisodeLoop, steps: int) -> None:
    left = iter(range(steps))
    loop.run(lambda: next(left, None) is None)


def _instrument(twin: VectorTwin, clock: Clock) -> None:
    """Puts the clock at the doors of a twin's parts."""
    renderer: Any = twin._renderer
    parts: list[tuple[Any, str, str | Callable[..., str]]] = [
        (twin._physics, "step", "physics"),
        (twin._physics, "reset", "physics"),
        (twin._kinematics, "inverse", "IK"),
        (twin, "step", "task"),
        (twin, "observe", "copy"),
        (twin, "reset", "task"),
        (renderer, "draw", "side image"),
        (renderer._buffers[0].moving, "pose", "move splats"),
        (renderer._wrist, "draw", "wrist image"),
        (renderer, "_develop", lambda *a: "side image" if a[-1].base is renderer.side else "wrist image"),
    ]
    for owner, name, stage in parts:
        setattr(owner, name, clock.timed(stage, getattr(owner, name)))


def stage_table(scene: Scene, task: str, *, twins: tuple[int, ...], px: int, steps: int) -> str:
    """A row per number of twins: milliseconds by stage, and steps per CPU second with one camera and with both."""
    rows = []
    for n in twins:
        cost = measure(scene, task, twins=n, px=px, steps=max(10, steps // n))
        cells = [f"{cost.ms[name]:.3f}" for name in STAGES]
        one, both = cost.steps_per_s(without="wrist image"), cost.steps_per_s()
        rows.append((n, *cells, f"{one:,.0f}", f"{both:,.0f}"))
    columns = (
        "twins",
        *(f"{name} [ms]" for name in STAGES),
        "side alone [steps/CPU s]",
        "side and wrist [steps/CPU s]",
    )
    return table(columns, rows)
