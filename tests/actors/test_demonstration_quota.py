"""Only successful episodes become demonstrations, and exactly as many as asked."""

import numpy as np
import pytest

from actors.interfaces import EpisodeResult
from actors.sim.demonstrations import DemonstrationQuota
from protos.episode import Segment
from protos.errors import TwinRLError
from protos.schema import ACTION_DIM, PROPRIO_DIM, Configuration, Observation, Outcome, Source
from protos.space import Box, ConfigurationSpace

SPACE = ConfigurationSpace(
    manipulated="cube", regions={"A": Box(x=(0, 1), y=(0, 1)), "B": Box(x=(0, 1), y=(-1, -0.1))}, rows=1, columns=1
)


def segment(episode: str, region: str, outcome: Outcome, first_step: int = 0) -> Segment:
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    return Segment(
        task="t",
        scene="s",
        instruction="",
        configuration=Configuration(region=region),
        episode=episode,
        first_step=first_step,
        outcome=outcome,
        source=Source.TWIN,
        policy_versions=(-1, -1),
        backbone_id="",
        observation=Observation(side=frames, wrist=frames, proprio=np.zeros((3, PROPRIO_DIM), np.float32)),
        action=np.zeros((2, ACTION_DIM), np.float32),
        reward=np.zeros(2, np.float32),
        human=np.ones(2, bool),
    )


def result(outcome: Outcome) -> EpisodeResult:
    return EpisodeResult(
        configuration=Configuration(region="A"), outcome=outcome, steps=2, human_steps=2, interventions=1, version=-1
    )


def test_a_failed_episode_leaves_nothing_and_a_success_leaves_all_its_segments():
    quota = DemonstrationQuota(SPACE, {"A": 1}, seed=0)
    quota.add(segment("lost", "A", Outcome.RUNNING))
    quota.add(segment("won", "A", Outcome.RUNNING))
    quota.add(segment("lost", "A", Outcome.TIMEOUT, 2))
    quota.add(segment("won", "A", Outcome.SUCCESS, 2))
    assert [(one.episode, one.first_step) for one in quota.accepted] == [("won", 0), ("won", 2)]


def test_regions_are_asked_for_until_full_and_extras_are_not_kept():
    quota = DemonstrationQuota(SPACE, {"A": 2, "B": 1}, seed=0)
    for episode in ("1", "2", "3"):
        start = quota.next()
        assert start is not None
        assert start.region == "A" if episode == "1" else True
        quota.add(segment(episode, "A", Outcome.SUCCESS))
    assert quota.episodes == 2
    start = quota.next()
    assert start is not None
    assert start.region == "B"
    quota.add(segment("4", "B", Outcome.SUCCESS))
    assert quota.next() is None


def test_an_expert_that_keeps_failing_stops_the_collection():
    quota = DemonstrationQuota(SPACE, {"A": 1}, seed=0)
    with pytest.raises(TwinRLError, match="not solvable"):
        for _ in range(100):
            quota.report(result(Outcome.TIMEOUT))
