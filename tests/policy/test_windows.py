"""These tests act with a window of two observations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples_policy import TEXT, TINY, make_policy

from policy.acting import BatchActor
from policy.octo.settings import OctoSettings
from protos.errors import InputError
from protos.schema import Observation

PAIRS = replace(TINY, octo=OctoSettings(side_px=32, wrist_px=32, window=2, max_horizon=4), proprio_encoder="mlp")


@pytest.fixture(scope="module")
def actor():
    return BatchActor(make_policy(0, PAIRS), TEXT)


def windows(n=4, seed=0):
    rng = np.random.default_rng(seed)
    return Observation(
        side=rng.integers(0, 256, (n, 2, 32, 32, 3), np.uint8),
        wrist=rng.integers(0, 256, (n, 2, 32, 32, 3), np.uint8),
        proprio=rng.normal(size=(n, 2, 25)).astype(np.float32),
    )


def act(actor, seen, pad=None):
    return actor.act(seen, pad, generator=torch.Generator().manual_seed(1))


def test_both_observations_count(actor):
    assert actor.window == 2
    seen = windows()
    action, embedding = act(actor, seen)
    assert action.shape == (4, 7) and embedding.shape == (4, 96)
    seen.side[:, 0] = 0
    assert (np.abs(act(actor, seen)[1] - embedding).max(1) > 1e-4).all()


def test_images_that_stand_in_are_not_looked_at(actor):
    seen, other = windows(), windows()
    pad = np.array([[True, False], [False, False]] * 2)
    other.side[:, 0] = 7
    first, second = (act(actor, one, pad)[1] for one in (seen, other))
    np.testing.assert_allclose(first[::2], second[::2], atol=1e-5)
    assert (np.abs(first[1::2] - second[1::2]).max(1) > 1e-4).all()
    np.testing.assert_allclose(act(actor, seen)[1][1::2], first[1::2], atol=1e-5)


def test_rows_of_several_actors_in_one_batch_get_what_they_get_alone(actor):
    seen, pad = windows(6), np.zeros((6, 2), bool)
    pad[[0, 4], 0] = True
    together = act(actor, seen, pad)[1]
    for rows in (slice(0, 2), slice(2, 3), slice(3, 6)):
        np.testing.assert_allclose(act(actor, seen.rows(rows), pad[rows])[1], together[rows], atol=1e-5)


def test_a_nan_anywhere_in_a_window_is_refused(actor):
    seen = windows()
    seen.proprio[2, 0, 5] = np.inf
    with pytest.raises(InputError, match=r"rows \[2\]"):
        act(actor, seen)


def test_a_single_observation_is_not_a_window(actor):
    seen = windows()
    with pytest.raises(InputError, match=r"\(2, 32, 32, 3\)"):
        act(actor, Observation(side=seen.side[:, 1], wrist=seen.wrist[:, 1], proprio=seen.proprio[:, 1]))
