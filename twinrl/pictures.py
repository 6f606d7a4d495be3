"""Pictures of a run: the expert at work, as the twin and the stand-in see it."""

from pathlib import Path

import numpy as np
from PIL import Image

from protos.schema import U8, Schema
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import DOMAINS
from twin.scene import Scene
from twinrl.settings import RunSettings

PICTURE_PX = 256
MOMENTS = (0, 7, 11, 15, 21)
"""Control steps at which a picture is taken: start, reach, grasp, carry, place."""


def take_pictures(settings: RunSettings) -> None:
    """Writes pictures/<world>_<camera>.png: one strip per world and camera, an episode in A above one in B."""
    folder = settings.folder / "pictures"
    folder.mkdir(exist_ok=True)
    for world in ("twin", "standin"):
        for camera, strip in episode_strips(settings.folder / "scene", world, seed=settings.seed).items():
            Image.fromarray(strip).save(folder / f"{world}_{camera}.png")


def episode_strips(scene_folder: Path, domain: str, *, seed: int) -> dict[str, U8]:
    """Camera -> picture strip (2 · px, moments · px, 3) of the expert placing the cube from A and from B."""
    schema = Schema(side_px=PICTURE_PX, wrist_px=PICTURE_PX)
    task = tasks.get("pick_and_place")
    twin = VectorTwin(Scene.load(scene_folder), task, n=2, domain=DOMAINS[domain], seed=seed, schema=schema)
    rng = np.random.default_rng(seed)
    for slot, region in enumerate(("A", "B")):
        twin.reset(slot, task.space.sample(rng, region=region))
    frames: dict[str, list[U8]] = {"side": [], "wrist": []}
    for step in range(MOMENTS[-1] + 1):
        if step in MOMENTS:
            observation = twin.observe()
            frames["side"].append(np.concatenate(list(observation.side)))
            frames["wrist"].append(np.concatenate(list(observation.wrist)))
        twin.step(twin.expert_action())
    twin.close()
    return {camera: np.concatenate(columns, axis=1) for camera, columns in frames.items()}
