"""Images of a run: the expert at work in the twin, and the arm's workspace, as their cameras see them."""

from pathlib import Path

import numpy as np
from PIL import Image

from protos.episode import Episode
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


def write_images(run: Path, settings: RunSettings, twin: tuple[Path, Domain], *, shown: Episode | None) -> None:
    """Writes run/images/<world>_<camera>.png: one strip per world and camera, an episode in A above one in B.

    `shown` is a demonstration on a lab's own arm; without it the arm is the stand-in.
    """
    folder, task = run / "images", tasks.get(settings.task)
    folder.mkdir(exist_ok=True)
    worlds = {"twin": episode_strips(Scene.load(twin[0]), task, twin[1], seed=settings.seed)}
    if shown is not None:
        worlds["arm"] = recorded_strips(shown)
    else:
        lab = labs.get(settings.lab, task)
        seen = lab.workspace(Scene.load(run / "scene"))
        worlds["standin"] = episode_strips(seen, task, lab.domain, seed=settings.seed)
    for world, strips in worlds.items():
        for camera, strip in strips.items():
            Image.fromarray(strip).save(folder / f"{world}_{camera}.png")


def recorded_strips(episode: Episode) -> dict[str, U8]:
    """Camera -> image strip (px, moments · px, 3) of a recorded episode."""
    steps = [round(share * episode.steps) for share in MOMENTS]
    seen = {"side": episode.observation.side, "wrist": episode.observation.wrist}
    return {camera: np.concatenate(list(images[steps]), axis=1) for camera, images in seen.items()}


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
