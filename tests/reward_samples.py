"""Episodes for the reward classifier: a bright object lies on its target at the end, or beside it."""

import numpy as np

from protos.episode import Episode
from protos.schema import GRIPPER_ACTION, Configuration, Observation, Outcome, Schema, Source

SCHEMA = Schema(side_px=32, wrist_px=16)
TARGET = (-0.4, 0.0, 0.001)
STEPS, OPENS_AT = 12, 9
"""The fingers are told to open in that step; two observations later the task is judged."""


def episode(number, *, success, name="attempt"):
    """Ends two observations after the fingers opened over the target; in a failure the object lies elsewhere."""
    rng = np.random.default_rng([number, success])
    total = STEPS if not success else OPENS_AT + 2
    proprio = np.zeros((total + 1, 25), np.float32)
    way = np.minimum(np.arange(total + 1) / OPENS_AT, 1)[:, None]
    end = np.array(TARGET) + rng.uniform(-0.004, 0.004, 3)
    proprio[:, :3] = end * way + np.array([-0.55, 0.1, 0.15]) * (1 - way)
    action = np.zeros((total, 7), np.float32)
    action[:, GRIPPER_ACTION] = -1.0
    action[OPENS_AT:, GRIPPER_ACTION] = 1.0
    return Episode(
        name=f"{name}/{number}/{success}",
        instruction="Put the cube on the disc.",
        configuration=Configuration(region="A", poses={"target": (*TARGET, 0.0), "cube": (-0.55, 0.1, 0.018, 0.0)}),
        observation=Observation(
            side=images(rng, total + 1, SCHEMA.side_px, on_target=success),
            wrist=images(rng, total + 1, SCHEMA.wrist_px, on_target=success),
            proprio=proprio,
        ),
        action=action,
        reward=np.zeros(total, np.float32),
        human=np.ones(total, bool),
        outcome=Outcome.SUCCESS if success else Outcome.FAILURE,
        source=Source.REAL,
        task="pick_and_place",
        scene="table",
    )


def images(rng, count, px, *, on_target):
    """Images in which the object comes to the middle in the last third, or to a corner."""
    found = rng.integers(60, 100, (count, px, px, 3)).astype(np.uint8)
    half = px // 8
    for row in range(count):
        at = px // 2 if on_target and row >= OPENS_AT - 1 else px // 5
        found[row, at - half : at + half, at - half : at + half] = (220, 40, 40)
    return found


def episodes(numbers, name="attempt"):
    """As many successes as failures."""
    return [episode(number, success=success, name=name) for number in numbers for success in (True, False)]
