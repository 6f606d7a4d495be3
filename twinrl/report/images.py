"""Images of a run: the expert at work, as the twin and the stand-in see it."""

from pathlib import Path

import numpy as np
from PIL import Image

from protos.schema import U8, Schema
from twin import labs, tasks
from twin.env import VectorTwin
from twin.randomize import Domain
from twin.scene import Scene
from twin.tasks import Task
from twinrl.run.settings import RunSettings

IMAGE_PX = 256
MOMENTS = (0.0, 0.3, 0.5, 0.7, 1.0)
"""Shares of the episode at which a image is taken: start, reach, grasp, carry, done."""


def write_images(run: Path, settings: RunSettings, twin: tuple[Path, Domain]) -> None:
    """Writes run/images/<world>_<camera>.png: one strip per world and camera, an episode in A above one in B."""
    folder = run / "images"
    folder.mkdir(exist_ok=True)
    scene, task = Scene.load(run / "scene"), tasks.get(settings.task)
    lab = labs.get(settings.lab, task)
    for world, seen, domain in (("twin", Scene.load(twin[0]), twin[1]), ("standin", lab.workspace(scene), lab.domain)):
        strips = episode_strips(seen, task, domain, seed=settings.seed)
        for camera, strip in strips.items():
            Image.fromarray(strip).save(folder / f"{world}_{camera}.png")


def episode_strips(scene: Scene, task: Task, domain: Domain, *, seed: int) -> dict[str, U8]:
    """Camera -> image strip (2 · px, moments · px, 3) of the expert at the task from A and from B."""
    schema = Schema(side_px=IMAGE_PX, wrist_px=IMAGE_PX)
    twin = VectorTwin(scene, task, n=2, domain=domain, seed=seed, schema=schema)
    _begin(twin, seed)
    length = 0
    while not twin.step(twin.expert_action()).success.all() and length < task.max_steps:
        length += 1
    moments = {round(share * length) for share in MOMENTS}
    frames: dict[str, list[U8]] = {"side": [], "wrist": []}
    _begin(twin, seed)
    for step in range(length + 1):
        if step in moments:
            observation = twin.observe()
            frames["side"].append(np.concatenate(list(observation.side)))
            frames["wrist"].append(np.concatenate(list(observation.wrist)))
        twin.step(twin.expert_action())
    twin.close()
    return {camera: np.concatenate(columns, axis=1) for camera, columns in frames.items()}


def _begin(twin: VectorTwin, seed: int) -> None:
    """An episode in A and one in B, the same for the same seed."""
    twin.seed(seed)
    rng = np.random.default_rng(seed)
    for slot, region in enumerate(("A", "B")):
        twin.reset(slot, twin.task.space.sample(rng, region=region))
