"""This module makes twins as settings describe them; a process reads a scene only once."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.recorder import EpisodeTags
from actors.sim.settings import TwinWorld
from protos.schema import F32, Observation, Source

if TYPE_CHECKING:
    from twin.env import VectorTwin
    from twin.scene import Scene
    from twin.tasks import Task


def make_twin(
    world: TwinWorld, *, n: int, seed: int | None = None, threads: int = 1, disturbance: float | None = None
) -> "VectorTwin":
    """Returns n twins of one world; `threads` draw their images and step their physics.

    `seed` and `disturbance` (strength of the motion noise) take the place of the world's and its domain's. Raises
    InputError for a task or physics that does not exist.
    """
    from twin import tasks
    from twin.env import VectorTwin

    domain = world.domain if disturbance is None else replace(world.domain, disturbance=disturbance)
    return VectorTwin(
        load_scene(world.scene),
        tasks.get(world.task),
        n=n,
        domain=domain,
        seed=world.seed if seed is None else seed,
        schema=world.schema,
        physics=world.physics,
        threads=threads,
    )


@functools.lru_cache(maxsize=2)
def load_scene(folder: Path) -> "Scene":
    """Returns the scene in a folder; its arrays are shared by all twins of the process."""
    from twin.scene import Scene

    return Scene.load(folder)


def twin_tags(task: "Task", scene: str, *, actor: str, incarnation: str) -> EpisodeTags:
    """Returns the tags of segments that an actor records in twins of a task and scene."""
    return EpisodeTags(
        actor=actor,
        incarnation=incarnation,
        task=task.name,
        scene=scene,
        instruction=task.instruction,
        source=Source.TWIN,
    )


class TwinExpert:
    """The twin's privileged expert as the loop's operator: it acts in every step."""

    def __init__(self, twin: "VectorTwin") -> None:
        self._twin = twin
        self._actions: F32 | None = None
        self._seen: Observation | None = None

    def override(self, slot: int, step: int, observation: Observation) -> F32:
        """Returns the expert's action (7,) for a slot; computed once per observation."""
        if observation is not self._seen:
            self._actions, self._seen = self._twin.expert_action(), observation
        assert self._actions is not None
        return self._actions[slot]
