"""An episode is cut into segments and joined again."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.episode import Episode
from protos.schema import SEGMENT_STEPS, Configuration, Observation, Outcome, Source


def episode(steps, *, dim=3, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, steps + 1, 16, 16, 3), np.uint8)
    return Episode(
        name="arm/1/0",
        task="pick_and_place",
        scene="table",
        instruction="Put the cube on the disc.",
        configuration=Configuration(region="A", cell=3),
        observation=Observation(
            side=images[0], wrist=images[1], proprio=rng.normal(size=(steps + 1, 25)).astype(np.float32)
        ),
        action=rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        reward=rng.random(steps).astype(np.float32),
        human=rng.random(steps) < 0.5,
        outcome=Outcome.SUCCESS,
        source=Source.TWIN,
        versions=(4, 7),
        backbone_id="b",
        embedding=rng.normal(size=(steps + 1, dim)).astype(np.float32) if dim else None,
    )


@given(steps=st.integers(1, 3 * SEGMENT_STEPS + 1), dim=st.sampled_from([0, 5]))
def test_cut_and_joined_is_the_same(steps, dim):
    whole = replace(episode(steps, dim=dim), backbone_id="b" if dim else "")
    segments = list(whole.segments())
    joined = Episode.of(segments)
    assert max(segment.steps for segment in segments) <= SEGMENT_STEPS
    assert [segment.outcome for segment in segments[:-1]] == [Outcome.RUNNING] * (len(segments) - 1)
    for name in ("action", "reward", "human", "embedding"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    for name in ("side", "wrist", "proprio"):
        np.testing.assert_array_equal(getattr(joined.observation, name), getattr(whole.observation, name))
    same = ("name", "task", "scene", "configuration", "outcome", "source", "versions", "backbone_id")
    assert [getattr(joined, name) for name in same] == [getattr(whole, name) for name in same]


@pytest.mark.parametrize("change", ["another backbone", "another size", "none"])
def test_segments_whose_readouts_differ_join_without_them(change):
    first, second = list(episode(SEGMENT_STEPS + 2).segments())
    changed = {
        "another backbone": replace(second, backbone_id="c"),
        "another size": replace(second, embedding=np.zeros((3, 9), np.float32)),
        "none": replace(second, embedding=None, backbone_id=""),
    }[change]
    joined = Episode.of([first, changed])
    assert (joined.embedding, joined.backbone_id) == (None, "")
    assert joined.steps == SEGMENT_STEPS + 2
