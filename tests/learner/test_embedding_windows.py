"""Readouts that the learner computes again equal the actor's, with windows too."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from actors import EpisodeLoop, EpisodeRecorder, EpisodeTags
from actors.policies import StoredPolicy
from learner.stage.data import embed_episode
from policy.checkpoint import save_policy
from policy.model import Policy
from policy.octo.settings import OctoSettings
from policy.settings import PolicySettings
from protos.schema import Configuration, Observation, Source, Step

TEXT = "put the cube on the target"
STEPS = 70


@dataclass
class Recorded:
    """This class has the fields of an episode that embedding reads."""

    instruction: str
    observation: Observation


class World:
    """This environment has one slot and one episode of noise."""

    n = 1

    def __init__(self):
        rng = np.random.default_rng(0)
        self._side, self._wrist = rng.integers(0, 256, (2, STEPS + 1, 1, 16, 16, 3), np.uint8)
        self._proprio = rng.normal(size=(STEPS + 1, 1, 25)).astype(np.float32)
        self._step = 0

    def reset(self, slot, configuration):
        assert slot == 0 and self._step == 0

    def observe(self):
        t = self._step
        return Observation(side=self._side[t], wrist=self._wrist[t], proprio=self._proprio[t])

    def step(self, action):
        self._step += 1
        ends = np.array([self._step == STEPS])
        return Step(
            executed=action, reward=ends.astype(np.float32), terminated=ends, truncated=np.array([False]), success=ends
        )


class OneEpisode:
    given = False

    def next(self):
        self.given, given = True, self.given
        return None if given else Configuration(region="A")

    def report(self, result):
        assert result.steps == STEPS


class Sink(list):
    add = list.append


@pytest.mark.parametrize("window", [1, 2, 3])
def test_embeddings_computed_again_are_the_actors(tmp_path, window):
    octo = OctoSettings(side_px=16, wrist_px=16, dim=32, layers=1, window=window, max_horizon=4)
    torch.manual_seed(0)
    policy = Policy(replace(PolicySettings(), octo=octo))
    save_policy(tmp_path, policy)
    tags = EpisodeTags(actor="a", incarnation="i", task="t", scene="s", instruction=TEXT, source=Source.REAL)
    sink, stored = Sink(), StoredPolicy(tmp_path, TEXT, explore=0.0, seed=0)
    EpisodeLoop(World(), stored, OneEpisode(), EpisodeRecorder(tags), sink).run(lambda: False)

    def joined(of):
        parts = [of(segment)[: segment.steps] for segment in sink]
        return np.concatenate([*parts, of(sink[-1])[-1:]])

    observation = Observation(
        **{name: joined(lambda s, n=name: getattr(s.observation, n)) for name in ("side", "wrist", "proprio")}
    )
    again = embed_episode(policy.eval(), Recorded(TEXT, observation))
    wanted = joined(lambda segment: segment.embedding)
    assert again.shape == wanted.shape == (STEPS + 1, 32)
    np.testing.assert_allclose(again, wanted, atol=1e-5)
