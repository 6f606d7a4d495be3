"""Tests images of rows, from memory and from servers: each row gets its own."""

import itertools
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from image_samples import Shard, Sink, fill, make_episode, sink_maker

from protos.images import CODECS
from services.replay import EmbeddedServer

CAPACITY = 400


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("frames")) as server:
        yield server


@pytest.fixture
def shard(server) -> Shard:
    return Shard(url=server.url)


@pytest.fixture
def sink_of() -> Iterator[Callable[..., Sink]]:
    with sink_maker() as make:
        yield make


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("kept_in", ["memory", "file"])
@pytest.mark.parametrize("memory_rows", [0, 60, 10_000], ids=["direct", "hybrid", "mirror"])
@pytest.mark.parametrize("codec", CODECS)
def test_every_row_has_its_image_and_the_next_row_the_one_after_it(
    sink_of, shard, rng, codec, memory_rows, kept_in, tmp_path
):
    folder = tmp_path if kept_in == "file" else None
    sink = sink_of(shard, capacity=CAPACITY, memory_rows=memory_rows, folder=folder)
    episodes = fill(sink, shard, rng, codec, [1, 16, 37, 5, 64, 17])
    chosen = [rng.choice(rows[1:-1] if len(rows) > 2 else rows[:1], 12) for rows in episodes]
    rows = rng.permutation(np.concatenate(chosen))
    first = np.isin(rows, [episode[0] for episode in episodes])
    windows = np.stack([rows - ~first, rows], axis=1)
    there, (seen, following) = sink.take(windows, windows + 1)
    assert there.all()
    sink.assert_true(windows, seen, codec)
    sink.assert_true(windows + 1, following, codec)
    stats = sink.store.stats()
    assert stats["direct"] + stats["mirrored"] == 4 * len(rows)
    assert (stats["direct"] == 0) == (memory_rows == 10_000)
    assert (stats["mirrored"] == 0) == (memory_rows == 0)
    everything = np.concatenate(episodes)[:, None]
    there, (found,) = sink.take(everything)
    assert there.all()
    sink.assert_true(everything, found, codec)


@pytest.mark.parametrize("codec", CODECS)
def test_a_window_may_straddle_the_border_of_memory(sink_of, shard, rng, codec):
    sink = sink_of(shard, capacity=CAPACITY, memory_rows=20)
    (rows,) = fill(sink, shard, rng, codec, [70])
    border = len(rows) - 20
    windows = rows[border - 2 : border + 2, None] + np.array([0, 1])
    there, (found,) = sink.take(windows)
    assert there.all()
    sink.assert_true(windows, found, codec)
    assert (sink.store.stats()["mirrored"], sink.store.stats()["direct"]) == (5, 3)


def test_one_camera_only(sink_of, shard, rng):
    for cameras, codec in itertools.product((["wrist"], ["side"]), CODECS):
        for memory_rows in (0, 1_000):
            sink = sink_of(shard, capacity=CAPACITY, memory_rows=memory_rows, cameras=cameras)
            (rows,) = fill(sink, shard, rng, codec, [40])
            there, (found,) = sink.take(rows[:, None])
            assert there.all()
            assert list(found) == cameras
            sink.assert_true(rows, found, codec)


@pytest.mark.parametrize("memory_rows", [0, 50, 10_000])
def test_rows_are_overwritten_and_their_segments_forgotten(sink_of, shard, rng, memory_rows):
    sink = sink_of(shard, capacity=100, memory_rows=memory_rows)
    for _ in range(12):
        fill(sink, shard, rng, "raw", [33])
        there, (found,) = sink.take(np.array(sorted(sink.truth))[:, None])
        assert there.all()
        sink.assert_true(np.array(sorted(sink.truth)), found, "raw")
    (rows,) = fill(sink, shard, rng, "raw", [150])
    there, (found,) = sink.take(rows[:, None])
    assert there.all()
    sink.assert_true(rows, found, "raw")


def test_places_stay_good_when_their_rows_get_other_episodes(sink_of, shard, rng):
    for memory_rows in (0, 10, 1_000):
        sink = sink_of(shard, capacity=20, memory_rows=memory_rows)
        (rows,) = fill(sink, shard, rng, "raw", [19])
        places, truth = sink.store.locate(rows[:, None]), dict(sink.truth)
        fill(sink, shard, rng, "raw", [19])
        there, (found,) = sink.take_places(places)
        assert there.all()
        sink.truth = truth
        sink.assert_true(rows, found, "raw")


def test_taking_while_others_stage(sink_of, shard, rng):
    """A small ring is overwritten all the time under those who read from it."""
    sink = sink_of(shard, capacity=200, memory_rows=90)
    episodes = [make_episode(rng, 24) for _ in range(4)]
    segments = [shard.put_episode(whole, "raw") for whole in episodes]
    mutex, done = threading.Lock(), threading.Event()

    def stage(which: int) -> None:
        while not done.is_set():
            staged = sink.store.stage(segments[which], shard=0)
            with mutex:
                rows = (sink.head + np.arange(25)) % sink.capacity
                sink.head = int(rows[-1] + 1) % sink.capacity
                sink.store.add(rows, staged)
                sink.truth |= {row: episodes[which].observation.rows([k]) for k, row in enumerate(rows.tolist())}

    sink.add(segments[0], episodes[0])
    threads = [threading.Thread(target=stage, args=(which,)) for which in (0, 1, 2)]
    for thread in threads:
        thread.start()
    for _ in range(150):
        with mutex:
            rows = rng.choice(sorted(sink.truth), (16, 1))
            places, truth = sink.store.locate(rows), dict(sink.truth)
        there, (found,) = sink.take_places(places)
        assert there.all()
        Sink(store=sink.store, capacity=200, truth=truth).assert_true(rows, found, "raw")
    done.set()
    for thread in threads:
        thread.join(30)
    assert min(sink.store.stats()[name] for name in ("mirrored", "direct")) > 0


def test_the_store_ends(sink_of, shard, rng):
    sink = sink_of(shard, capacity=CAPACITY)
    (rows,) = fill(sink, shard, rng, "jpeg", [20])
    assert sink.take(rows[:, None])[0].all()
    before = threading.active_count()
    sink.store.close()
    assert threading.active_count() < before
