"""Small worlds that the twin's tests share."""

import numpy as np
import pytest

from protos.schema import Configuration, Schema
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import DOMAINS, Domain
from twin.scene import Scene, synthetic_scene
from twin.tasks.base import Task


@pytest.fixture(scope="session")
def scene() -> Scene:
    return synthetic_scene(spacing_m=0.02)


@pytest.fixture(scope="session")
def task() -> Task:
    return tasks.get("pick_and_place")


@pytest.fixture
def make_twin(scene, task):
    """A function that builds small twins and closes them after the test."""
    made = []

    def make(
        n: int = 1, *, domain: Domain = DOMAINS["twin"], seed: int = 0, px: int = 16, threads: int = 1
    ) -> VectorTwin:
        schema = Schema(side_px=px, wrist_px=px)
        made.append(VectorTwin(scene, task, n=n, domain=domain, seed=seed, schema=schema, threads=threads))
        return made[-1]

    yield make
    for twin in made:
        twin.close()


@pytest.fixture
def configurations(task):
    """A function that draws start configurations of a region."""

    def draw(region: str, count: int, seed: int = 0) -> list[Configuration]:
        rng = np.random.default_rng(seed)
        return [task.space.sample(rng, region=region) for _ in range(count)]

    return draw
