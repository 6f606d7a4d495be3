"""This module makes episodes for the tests of dataset formats, and compares them."""

from dataclasses import fields

import numpy as np

from learner.datasets import ActionScale
from learner.datasets.lerobot import LeRobotDataset, LeRobotWriter
from protos.episode import Episode
from protos.schema import Configuration, Observation, Outcome, Schema, Source

SCHEMA = Schema(side_px=48, wrist_px=32)
SCALE = ActionScale(metres=0.03, radians=0.1)
START = Configuration(region="B", cell=23, poses={"cube": (-0.55, -0.1, 0.02, 0.3), "target": (-0.4, 0.0, 0.001, 0.0)})


def image(px, level):
    """Returns a smooth image (px, px, 3), as cameras give and codecs expect."""
    ramp = np.linspace(0, 1, px)
    across, down = np.meshgrid(ramp, ramp)
    return np.stack([200 * across, 200 * down, 200 * level * np.ones((px, px))], axis=2).astype(np.uint8)


def make_episode(rng, *, name="actor/life/0", steps=5, outcome=Outcome.SUCCESS, schema=SCHEMA, **other):
    levels = rng.uniform(0.1, 1, steps + 1)
    reward = np.zeros(steps, np.float32)
    reward[-1:] = outcome is Outcome.SUCCESS
    values = {
        "name": name,
        "instruction": "Put the cube on the disc.",
        "configuration": START,
        "observation": Observation(
            side=np.stack([image(schema.side_px, level) for level in levels]),
            wrist=np.stack([image(schema.wrist_px, 1 - level) for level in levels]),
            proprio=rng.normal(size=(steps + 1, 25)).astype(np.float32),
        ),
        "action": rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        "reward": reward,
        "human": rng.random(steps) < 0.5,
        "outcome": outcome,
        "source": Source.TWIN,
    }
    return Episode(**(values | other))


NOT_STORED = {"task", "scene", "versions", "backbone_id", "embedding"}
"""Fields of an episode that no dataset format has."""


def write(folder, episodes, **options):
    """Writes all episodes through one writer; returns the folder."""
    writer = LeRobotWriter(folder, SCHEMA, action_scale=SCALE, **options)
    for episode in episodes:
        writer.add(episode)
    writer.close()
    return folder


def read(folder, **options):
    return list(LeRobotDataset(folder, SCHEMA, **options))


def assert_same(left, right, *, lossy=False):
    """Compares what datasets store, to the bit and type; with `lossy`, images of all but the final row may differ."""
    for field in fields(Episode):
        if field.name in NOT_STORED:
            continue
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        elif field.name != "observation":
            assert a == b, field.name
    np.testing.assert_array_equal(left.observation.proprio, right.observation.proprio)
    for camera in ("side", "wrist"):
        a, b = getattr(left.observation, camera), getattr(right.observation, camera)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a[-1], b[-1])
        assert psnr(a, b) > 35 if lossy else np.array_equal(a, b)


def psnr(a, b):
    """Returns the peak signal-to-noise ratio [dB]."""
    square = ((a.astype(float) - b) ** 2).mean()
    return 10 * np.log10(255**2 / square) if square else np.inf
