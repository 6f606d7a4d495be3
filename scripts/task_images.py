"""This script draws one strip per task, side and wrist camera, from start to end of the expert's episode.

`python scripts/task_images.py --scene SCENE --out docs/images/tasks.png`; without a scene a made-up one.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from protos.schema import U8, Schema
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import DOMAINS
from twin.scene import Scene, synthetic_scene

MOMENTS = (0.0, 0.35, 0.7, 1.0)
"""Shares of an episode at which images are taken."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Settings of the strips."""

    out: Path
    scene: Path | None = None
    task: tuple[str, ...] = tasks.names()
    region: str = "A"
    px: int = 256
    """Width and height of the cameras' images."""
    tile_px: int = 112
    """Width and height of each image in the strip."""
    seed: int = 3


def strip(scene: Scene, name: str, look: Images) -> U8:
    """Returns a strip (tile, 2 · moments · tile, 3): the side camera's images, then the wrist camera's."""
    task = tasks.get(name)
    schema = Schema(side_px=look.px, wrist_px=look.px)
    twin = VectorTwin(scene, task, n=1, domain=DOMAINS["twin"], seed=look.seed, schema=schema)
    twin.reset(0, task.space.sample(np.random.default_rng(look.seed), region=look.region))
    seen = [twin.observe()]
    while not twin.step(twin.expert_action()).success[0] and len(seen) < task.max_steps:
        seen.append(twin.observe())
    seen.append(twin.observe())
    twin.close()
    moments = [seen[round(share * (len(seen) - 1))] for share in MOMENTS]
    frames = [one.side[0] for one in moments] + [one.wrist[0] for one in moments]
    size = (look.tile_px, look.tile_px)
    resample = Image.Resampling.BOX if look.px >= look.tile_px else Image.Resampling.NEAREST
    return np.concatenate([np.asarray(Image.fromarray(frame).resize(size, resample)) for frame in frames], axis=1)


def main(look: Images) -> None:
    scene = synthetic_scene() if look.scene is None else Scene.load(look.scene)
    rows = np.concatenate([strip(scene, name, look) for name in look.task], axis=0)
    Image.fromarray(rows).save(look.out, optimize=True)


if __name__ == "__main__":
    main(tyro.cli(Images, description=__doc__))
