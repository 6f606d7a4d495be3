"""This module makes small batches and episodes with recognisable contents."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from policy.model import Policy
from policy.octo.settings import OctoSettings
from policy.settings import HeadSettings, PolicySettings
from protos.episode import Episode, Segment
from protos.schema import Configuration, Observation, Outcome, Schema, Source
from services.replay import Batch


def changed(settings, **changes):
    """Returns settings in which fields of nested settings have other values, as in `critic={"width": 16}`."""
    nested = {name: value for name, value in changes.items() if isinstance(value, dict)}
    inner = {name: changed(getattr(settings, name), **value) for name, value in nested.items()}
    return replace(settings, **(changes | inner))


SMALL = PolicySettings(
    octo=OctoSettings(side_px=16, wrist_px=16, dim=16, layers=1, heads=2, mlp_dim=16), head=HeadSettings(width=32)
)
SCHEMA = Schema(side_px=16, wrist_px=16)
TEXT = "Put the cube on the disc."
START = Configuration(region="A", cell=3, poses={"cube": (-0.55, 0.1, 0.018, 0.0), "target": (-0.4, 0.0, 0.001, 0.0)})


def make_policy(seed=0):
    torch.manual_seed(seed)
    return Policy(SMALL)


def make_batch(n=32, seed=0, dim=SMALL.octo.dim):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator)

    return {
        "embedding": normal(n, dim),
        "proprio": 0.3 * normal(n, 25),
        "action": 2 * uniform(n, 7) - 1,
        "reward": (uniform(n) > 0.8).float(),
        "discount": 0.9 * (uniform(n) > 0.2).float(),
        "next_embedding": normal(n, dim),
        "next_proprio": 0.3 * normal(n, 25),
        "mc_return": uniform(n),
        "imitate": (uniform(n) > 0.5).float(),
        "weight": torch.ones(n),
    }


def replay_batch(**arrays):
    """Returns a batch as the replay reader gives it, of these arrays alone."""
    return Batch(**{field.name: arrays.get(field.name) for field in fields(Batch)})


def make_image_batch(n=32, seed=0, window=1):
    """Returns a batch that has images and language as well as readouts."""
    generator = torch.Generator().manual_seed(seed + 1000)
    px = SMALL.octo.side_px
    names = ("side", "wrist", "next_side", "next_wrist")
    shape = (n, window, px, px, 3)
    images = {k: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for k in names}
    pad = torch.zeros(n, window, dtype=torch.bool)
    pad[::3, :-1] = True
    return make_batch(n, seed) | images | {"pad": pad, "language": torch.randn(1, 1, 768, generator=generator)}


@dataclass(frozen=True)
class Demo:
    """This class has the fields of an episode that fine-tuning reads."""

    observation: Observation
    action: np.ndarray
    configuration: Configuration = START
    instruction: str = TEXT


def make_demo(rng, steps=10):
    """Returns an episode whose action can be read off the brightness of the side image."""
    level = rng.uniform(0, 1, steps + 1)
    side = np.broadcast_to((255 * level).astype(np.uint8)[:, None, None, None], (steps + 1, 16, 16, 3))
    proprio = np.zeros((steps + 1, 25), np.float32)
    proprio[:, :3] = (-0.5, 0.0, 0.1)
    action = np.zeros((steps, 7), np.float32)
    action[:, 0] = 2 * level[:-1] - 1
    action[:, 6] = 1
    return Demo(Observation(side=side.copy(), wrist=side.copy(), proprio=proprio), action)


def make_segment(rng, name, *, source=Source.TWIN, outcome=Outcome.SUCCESS, backbone_id="", version=-1, region="A"):
    """Returns a whole episode of 10 steps in one segment; readouts of 16 numbers when it has a backbone."""
    demo = make_demo(rng)
    reward = np.zeros(10, np.float32)
    reward[-1] = outcome is Outcome.SUCCESS
    embedding = rng.normal(size=(11, SMALL.octo.dim)).astype(np.float32) if backbone_id else None
    return Segment(
        task="pick_and_place",
        scene="bench",
        instruction=TEXT,
        configuration=Configuration(region=region, cell=3, poses=START.poses),
        episode=name,
        first_step=0,
        outcome=outcome,
        source=source,
        policy_versions=(version, version),
        backbone_id=backbone_id,
        observation=demo.observation,
        action=demo.action,
        reward=reward,
        human=np.zeros(10, bool),
        embedding=embedding,
    )


def recorded(demo, name):
    """Returns the episode of `make_demo` as datasets hold it: a person's success on the arm."""
    return Episode(
        name=name,
        instruction=demo.instruction,
        configuration=demo.configuration,
        observation=demo.observation,
        action=demo.action,
        reward=np.eye(10, dtype=np.float32)[9],
        human=np.ones(10, bool),
        outcome=Outcome.SUCCESS,
        source=Source.REAL,
    )
