"""Tests that batches are prefetched in order, not too many, and left alone while they may be used."""

import threading

import numpy as np
import pytest
from replay_samples import wait_until

from protos.errors import InputError, Unreachable
from services.replay.read.prefetch import Prefetcher


class Source:
    """Draws arrays that hold their own count, into old ones where it gets them; `failures` names counts that fail."""

    def __init__(self, *failures: int) -> None:
        self.drawn = 0
        self.failures = failures
        self.arrays: set[int] = set()

    def __call__(self, old: np.ndarray | None) -> np.ndarray:
        self.drawn += 1
        if self.drawn in self.failures:
            raise Unreachable(f"draw {self.drawn} failed")
        batch = np.zeros(1000, np.int64) if old is None else old
        self.arrays.add(id(batch))
        batch[:] = self.drawn
        return batch


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_batches_come_in_order_and_stay_until_the_second_next_one(depth):
    source = Source()
    with Prefetcher(source, depth=depth) as prefetcher:
        before = prefetcher.next(30)
        for count in range(2, 300):
            batch = prefetcher.next(30)
            assert (before == count - 1).all()
            assert (batch == count).all()
            before = batch
        assert prefetcher.stats()["batches"] == 299
    assert len(source.arrays) <= depth + 2


def test_several_threads_draw_at_once_and_never_share_an_array():
    both = threading.Barrier(2, timeout=30)
    arrays, busy = set(), set()

    def draw(old):
        batch = np.zeros(1000, np.int64) if old is None else old
        assert id(batch) not in busy, "an array that another thread fills"
        busy.add(id(batch))
        both.wait()
        arrays.add(id(batch))
        batch[:] = batch[0] + 1
        busy.discard(id(batch))
        return batch

    with Prefetcher(draw, depth=2, threads=2) as prefetcher:
        total = sum(int(prefetcher.next(30)[0]) > 0 for _ in range(100))
        assert total == 100
        both.abort()
    assert len(arrays) <= 4


@pytest.mark.parametrize(("depth", "threads"), [(0, 1), (2, 0), (2, 3)])
def test_counts_that_make_no_sense_are_refused(depth, threads):
    with pytest.raises(InputError, match=f"threads={threads}, depth={depth}"):
        Prefetcher(Source(), depth=depth, threads=threads)


def test_it_draws_as_far_ahead_as_it_may_and_no_farther():
    source = Source()
    with Prefetcher(source, depth=3) as prefetcher:
        for taken in range(5):
            wait_until(lambda: prefetcher.stats()["ready"] == 3)
            assert source.drawn == taken + 3
            prefetcher.next(30)


def test_a_consumer_that_is_slower_than_the_source_never_waits():
    with Prefetcher(Source()) as prefetcher:
        wait_until(lambda: prefetcher.stats()["ready"] == 2)
        for _ in range(2):
            prefetcher.next(0.0)
        assert prefetcher.stats()["batches"] == 2


def test_an_error_comes_after_the_batches_before_it_and_the_next_call_draws_again():
    source = Source(3, 4)
    with Prefetcher(source, depth=2) as prefetcher:
        assert [prefetcher.next(30)[0] for _ in range(2)] == [1, 2]
        for count in (3, 4):
            with pytest.raises(Unreachable, match=f"draw {count} failed"):
                prefetcher.next(30)
        assert prefetcher.next(30)[0] == 5


def test_an_error_that_nobody_has_taken_stops_the_drawing():
    source = Source(2)
    with Prefetcher(source, depth=3) as prefetcher:
        wait_until(lambda: source.drawn == 2)
        assert prefetcher.next(30)[0] == 1
        assert source.drawn == 2


def test_a_source_that_takes_too_long_is_told_and_waited_for_again():
    release = threading.Event()

    def draw(_: int | None) -> int:
        assert release.wait(30)
        return 7

    with Prefetcher(draw) as prefetcher:
        with pytest.raises(Unreachable, match="no batch within"):
            prefetcher.next(0.01)
        assert prefetcher.stats()["waited_s"] > 0
        release.set()
        assert prefetcher.next(30) == 7


def test_closing_wakes_a_call_that_waits_and_ends_the_thread():
    release, outcome = threading.Event(), []

    def draw(_: int | None) -> int:
        assert release.wait(30)
        return 7

    def consume() -> None:
        try:
            prefetcher.next(30)
        except InputError as error:
            outcome.append(str(error))
            release.set()

    prefetcher = Prefetcher(draw)
    consumer = threading.Thread(target=consume)
    consumer.start()
    prefetcher.close()
    consumer.join(30)
    assert outcome == ["the prefetcher is closed"]
    with pytest.raises(InputError, match="closed"):
        prefetcher.next(1)
    prefetcher.close()
