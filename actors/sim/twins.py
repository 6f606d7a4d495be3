"""Twins as settings describe them: the scene is read once per process, whoever asks for it."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from actors.sim.settings import TwinWorld

if TYPE_CHECKING:
    from twin.env import VectorTwin
    from twin.scene import Scene
from protos.schema import F32, Observation
from twin.env import VectorTwin


def make_twin(world: TwinWorld, *, n: int, seed: int, threads: int = 1) -> "VectorTwin":
    """n twins of one world; `threads` draw their pictures and step their physics."""
    from twin import tasks
    from twin.env import VectorTwin
    from twin.randomize import domain_named

    return VectorTwin(
        load_scene(world.scene),
        tasks.get(world.task),
        n=n,
        domain=domain_named(world.domain, world.latency_steps),
        seed=seed,
        schema=world.schema,
        physics=world.physics,
        threads=threads,
    )


@functools.lru_cache(maxsize=2)
def load_scene(folder: Path) -> "Scene":
    """The scene in a folder; its arrays are shared by all twins of the process."""
    from twin.scene import Scene

    return Scene.load(folder)


class TwinExpert:
    """The twin's privileged expert as the loop's operator: it acts in every step."""

    def __init__(self, twin: VectorTwin) -> None:
        self._twin = twin
        self._actions: F32 | None = None
        self._seen: Observation | None = None

    def override(self, slot: int, step: int, observation: Observation) -> F32:
        if observation is not self._seen:
            self._actions, self._seen = self._twin.expert_action(), observation
        assert self._actions is not None
        return self._actions[slot]
