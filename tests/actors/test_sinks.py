"""Only successful episodes become demonstrations, and exactly as many as asked."""

import numpy as np
import pytest

from actors import EpisodeResult
from actors.sim.demonstrations import DemonstrationGuide
from actors.sinks import EpisodeFilter
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


def guided(wanted):
    """A guide, its sink and the list of episodes that the sink delivers to."""
    delivered: list[list[Segment]] = []
    guide = DemonstrationGuide(SPACE, wanted, seed=0)
    return guide, EpisodeFilter(delivered.append, guide.accept), delivered


def names(delivered):
    return [[(one.episode, one.first_step) for one in segments] for segments in delivered]


def test_a_failed_episode_leaves_nothing_and_a_success_leaves_all_its_segments():
    _, sink, delivered = guided({"A": 1})
    sink.add(segment("lost", "A", Outcome.RUNNING))
    sink.add(segment("won", "A", Outcome.RUNNING))
    sink.add(segment("lost", "A", Outcome.TIMEOUT, 2))
    assert delivered == []
    sink.add(segment("won", "A", Outcome.SUCCESS, 2))
    assert names(delivered) == [[("won", 0), ("won", 2)]]
    assert sink.episodes == 1


def test_a_filter_delivers_every_successful_episode_by_default():
    delivered: list[list[Segment]] = []
    sink = EpisodeFilter(delivered.append)
    for episode, outcome in (("1", Outcome.SUCCESS), ("2", Outcome.FAILURE), ("3", Outcome.TIMEOUT)):
        sink.add(segment(episode, "A", outcome))
    sink.add(segment("4", "A", Outcome.RUNNING))
    assert names(delivered) == [[("1", 0)]]


def test_an_episode_that_broke_off_does_not_mix_with_the_next_one():
    delivered: list[list[Segment]] = []
    sink = EpisodeFilter(delivered.append)
    sink.add(segment("broken", "A", Outcome.RUNNING))
    sink.add(segment("next", "A", Outcome.RUNNING))
    sink.add(segment("next", "A", Outcome.SUCCESS, 2))
    assert names(delivered) == [[("next", 0), ("next", 2)]]


def test_a_filter_asks_once_per_ended_episode_and_keeps_to_the_answer():
    asked, delivered = [], []
    sink = EpisodeFilter(delivered.append, lambda segments: bool(asked.append(len(segments))) or len(asked) > 1)
    for episode in ("1", "2"):
        sink.add(segment(episode, "A", Outcome.RUNNING))
        sink.add(segment(episode, "A", Outcome.FAILURE, 2))
    assert asked == [2, 2]
    assert names(delivered) == [[("2", 0), ("2", 2)]]


def test_regions_are_asked_for_until_full_and_extras_are_not_kept():
    guide, sink, _ = guided({"A": 2, "B": 1})
    for episode in ("1", "2", "3"):
        start = guide.next()
        assert start is not None
        assert start.region == "A" if episode == "1" else True
        sink.add(segment(episode, "A", Outcome.SUCCESS))
    assert sink.episodes == 2
    start = guide.next()
    assert start is not None
    assert start.region == "B"
    sink.add(segment("4", "B", Outcome.SUCCESS))
    assert guide.next() is None


def test_an_expert_that_keeps_failing_stops_the_collection():
    guide, _, _ = guided({"A": 1})
    with pytest.raises(TwinRLError, match="not solvable"):
        for _ in range(100):
            guide.report(result(Outcome.TIMEOUT))
