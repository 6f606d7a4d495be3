"""This module makes policies, observations and published weights for tests."""

import json
from dataclasses import dataclass, field

import numpy as np
import torch

from policy.model import Policy
from policy.normalize import Normalization
from policy.settings import preset
from protos.schema import Observation
from protos.settings import to_json
from protos.tensors import part_sha256

TINY = preset("tiny")
TEXT = "Put the cube on the disc."


def make_policy(seed=0, settings=TINY):
    torch.manual_seed(seed)
    policy = Policy(settings).eval()
    rng = np.random.default_rng(seed)
    policy.set_normalization(Normalization.fit([rng.normal(size=(50, 25)).astype(np.float32)]))
    return policy


def observation(n=3, seed=0):
    rng = np.random.default_rng(seed)
    return Observation(
        side=rng.integers(0, 256, (n, 64, 64, 3), np.uint8),
        wrist=rng.integers(0, 256, (n, 64, 64, 3), np.uint8),
        proprio=rng.normal(size=(n, 25)).astype(np.float32),
    )


@dataclass
class Published:
    """Is a version as the weights service hands it out."""

    policy: Policy
    version: int = 7
    parts: dict = field(init=False)
    sha256: dict = field(init=False)
    settings: dict = field(init=False)

    def __post_init__(self):
        self.parts = self.policy.parts()
        self.sha256 = {name: part_sha256(part) for name, part in self.parts.items()}
        self.settings = json.loads(json.dumps({"policy": to_json(self.policy.settings)}))
