"""This module makes small worlds that the twin's tests share."""

import numpy as np
import pytest

from protos.schema import Configuration, Schema
from twin import tasks
from twin.camera import look_at
from twin.env import VectorTwin
from twin.randomize import DOMAINS, Domain
from twin.render import rasterize
from twin.scene import Scene, synthetic_scene
from twin.tasks import Task


@pytest.fixture(scope="session")
def scene() -> Scene:
    return synthetic_scene(spacing_m=0.02)


@pytest.fixture(scope="session")
def task() -> Task:
    return tasks.get("pick_and_place")


@pytest.fixture
def make_twin(scene, task):
    """Returns a function that builds small twins; they are closed after the test."""
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
    """Returns a function that draws start configurations of a region."""

    def draw(region: str, count: int, seed: int = 0) -> list[Configuration]:
        rng = np.random.default_rng(seed)
        return [task.space.sample(rng, region=region) for _ in range(count)]

    return draw


@pytest.fixture(scope="session")
def photographed():
    """Returns views of a splat table from an arc, and points on it."""
    from twin.scan.sfm import Lens, Reconstruction, View

    truth = synthetic_scene(0.02).static
    views = []
    for index, angle in enumerate(np.radians(np.linspace(-40, 40, 9))):
        eye = (-0.45 - 0.7 * np.cos(angle), 0.7 * np.sin(angle), 0.5)
        camera = look_at(eye, at=(-0.4, 0, 0), fovy_deg=55, px=96)
        image = (np.clip(rasterize(truth, camera).over(), 0, 1) * 255).astype(np.uint8)
        views.append(
            View(name=str(index), camera=camera, image=image, valid=np.ones((96, 96), bool), seen=np.arange(300))
        )
    chosen = np.random.default_rng(0).choice(len(truth), 300, replace=False)
    return Reconstruction(
        views=tuple(views),
        photos=9,
        points=truth.means[chosen].astype(float),
        colours=(truth.colours[chosen] * 255).astype(np.uint8),
        reprojection_px=0.0,
        lens=Lens(fx=views[0].camera.fx, fy=views[0].camera.fy, cx=48, cy=48),
    )
