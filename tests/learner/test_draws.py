"""Batches depend on their number alone, prefetched or not."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.augment import numpy_stream
from learner.rl import BatchSettings, Draws
from learner.rl.batches import batch_sizes
from protos.errors import Unreachable

BATCH = BatchSettings(online={"twin": 3}, demo={"demo": 2})


def make_draws(rows, settings=BATCH, *, prefetch):
    return Draws(rows, settings, seed=7, prefetch=prefetch, timeout_s=30.0)


class Rows:
    """A replay whose batches are the numbers drawn for them; it may fail once, and notes the threads that asked."""

    def __init__(self, fail_at=None):
        self.drawn, self.threads, self._fail_at = 0, set(), fail_at

    def counts(self):
        return {"demo": 10, "twin": 10}

    def sample(self, rng, sizes, *, out=None):
        self.threads.add(threading.current_thread().name)
        self.drawn += 1
        if self.drawn == self._fail_at:
            raise Unreachable("shard 1 does not answer")
        return dict(sizes), rng.integers(1_000_000, size=sum(sizes.values()))


def expected(purpose, k, rows=5):
    return numpy_stream(7, purpose, k).integers(1_000_000, size=rows)


@pytest.mark.parametrize("prefetch", [False, True])
def test_batch_k_depends_on_k_alone(prefetch):
    draws = make_draws(Rows(), prefetch=prefetch)
    for k in range(4):
        sizes, numbers = draws.warmup(k)
        assert sizes == {"demo": 5}
        np.testing.assert_array_equal(numbers, expected("warm-up", k))
    for k in (0, 1, 2, 10, 11):  # a resumed stage begins in the middle
        sizes, numbers = draws.online(k)
        assert sizes == {"twin": 3, "demo": 2}
        np.testing.assert_array_equal(numbers, expected("batch", k))
    np.testing.assert_array_equal(draws.sample(9, "normalization")[1], expected("normalization", 0, 9))
    draws.close()


def test_prefetching_is_a_thread_that_ends():
    rows = Rows()
    draws = make_draws(rows, prefetch=True)
    draws.online(0)
    deadline = time.monotonic() + 30
    while rows.drawn < 3:
        assert time.monotonic() < deadline, "nothing is prefetched"
        time.sleep(0.01)
    draws.close()
    assert rows.threads == {"prefetch"}
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("strategy", ["priority", "cells"])
def test_nothing_is_prefetched_where_draws_depend_on_updates(strategy):
    rows = Rows()
    draws = make_draws(rows, BatchSettings(sampling={"twin": strategy}), prefetch=True)
    draws.online(0)
    assert rows.threads == {"MainThread"}
    assert rows.drawn == 1


def test_a_draw_that_failed_is_made_again_under_its_number():
    draws = make_draws(Rows(fail_at=2), prefetch=True)
    np.testing.assert_array_equal(draws.online(0)[1], expected("batch", 0))
    with pytest.raises(Unreachable, match="shard 1"):
        draws.online(1)
    draws.close()
    np.testing.assert_array_equal(draws.online(1)[1], expected("batch", 1))
    draws.close()


COUNTS = st.dictionaries(st.sampled_from(["demo", "human", "real", "twin"]), st.integers(0, 3))


@settings(deadline=None)
@given(COUNTS, st.integers(1, 200))
def test_batch_sizes_add_up_and_use_only_what_is_there(counts, rows):
    online, demo = {"real": 48, "twin": 16}, {"demo": 48, "human": 16}
    present = {buffer for buffer, count in counts.items() if count}
    if not present:
        with pytest.raises(Unreachable, match="write demonstrations"):
            batch_sizes(rows, (online, demo), counts)
        return
    sizes = batch_sizes(rows, (online, demo), counts)
    assert sum(sizes.values()) == rows
    assert {buffer for buffer, size in sizes.items() if size} <= present
    halves = [sum(sizes.get(buffer, 0) for buffer in side) for side in (online, demo)]
    if present & online.keys() and present & demo.keys():
        assert abs(halves[0] - halves[1]) <= len(sizes)
