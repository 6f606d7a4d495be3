"""Tests that a restored reader holds the same rows, draws the same batches, and goes on with what came later."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from position_samples import assert_level, come_back, draws, interleaved, stored
from replay_samples import SCHEMA, cut, make_segment, read_all, reader_of, send, wait_until

from protos.errors import CorruptData
from protos.schema import Outcome
from services.replay import EmbeddedServer, Position, ReplaySettings, ReplayWriter, RestoreSettings
from services.replay.read.sampling import Cells, Priority, Uniform

names = count()


@pytest.fixture(scope="module")
def urls(tmp_path_factory) -> Iterator[tuple[str, ...]]:
    with (
        EmbeddedServer(tmp_path_factory.mktemp("one")) as one,
        EmbeddedServer(tmp_path_factory.mktemp("other")) as other,
    ):
        yield one.url, other.url


@pytest.fixture
def settings(urls) -> ReplaySettings:
    """A replay of its own for each test, on one server."""
    return ReplaySettings(urls=urls[:1], prefix=f"test{next(names)}")


@pytest.fixture
def pair(settings, urls) -> ReplaySettings:
    """On both."""
    return replace(settings, urls=urls)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("capacity", [2000, 150])
@pytest.mark.parametrize("strategy", [Uniform(), Cells(), Priority()], ids=["uniform", "cells", "priority"])
def test_rows_and_draws_are_the_same_now_and_after_more(settings, rng, strategy, capacity):
    """The ring has room, or has turned several times."""
    options = {"sampling": {"twin": strategy}, "capacity": {"twin": capacity}}
    first, second, third = (interleaved(rng, 12) for _ in range(3))
    reader = reader_of(settings, **options)
    send(settings, first, incarnation="1")
    read_all(reader)
    batch = draws(reader)
    reader.update_priorities(batch, rng.normal(size=len(batch)))
    if isinstance(strategy, Cells):
        reader.weigh_cells("twin", {3: 5.0, 9: 2.0, 0: 0.3})
    send(settings, second, incarnation="2")
    read_all(reader)
    again = come_back(reader, settings, **options)
    assert_level(reader, again)
    send(settings, third, incarnation="3")
    assert_level(read_all(reader), read_all(again))
    assert_level(reader, come_back(again, settings, **options))


def test_rows_of_shards_come_back_in_the_order_in_which_they_came(pair, rng):
    """Each shard's thread brings what it has when it can; the order is chance, and is kept."""
    segments = {f"twin/{i}": interleaved(rng, 6) for i in range(6)}
    with reader_of(pair, sampling={"twin": Priority()}) as reader:
        writers = [threading.Thread(target=send, args=(pair, s), kwargs={"actor": a}) for a, s in segments.items()]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        total = sum(len(segment.action) for each in segments.values() for segment in each)
        wait_until(lambda: reader.counts()["twin"] == total)
        for _ in range(3):
            assert_level(reader, come_back(reader, pair, sampling={"twin": Priority()}))


def test_a_position_taken_at_any_moment_holds_together(pair):
    """The counters say how much has arrived, and the rest is read later: nothing is lost or doubled."""
    stop, found, written = threading.Event(), [], []
    room = {"twin": 100_000}

    def write(actor: str) -> None:
        own = np.random.default_rng(len(actor))
        with ReplayWriter(pair, SCHEMA, actor=actor, spool=None) as writer:
            while not stop.wait(0.002):
                for segment in cut(make_segment(own, steps=20, episode=f"{actor}/{next(names)}")):
                    writer.add(segment, ("twin",))
                written.append(20)
            assert writer.flush(20) == 0

    threads = [threading.Thread(target=write, args=(actor,)) for actor in ("a", "bb", "ccc", "dddd")]
    with reader_of(pair, capacity=room) as reader:
        for thread in threads:
            thread.start()
        for turn in range(6):
            wait_until(lambda turn=turn: reader.counts()["twin"] > 100 * turn)
            found.append(stored(reader.position()))
        stop.set()
        for thread in threads:
            thread.join()
    for position in found:
        later = reader_of(pair, resume=position, capacity=room)
        later.restore()
        received, rows = later.received()["twin"], later.counts()["twin"]
        waiting = later.stats()["open_episodes"]
        assert rows <= received == rows + 16 * waiting
        read_all(later)
        assert later.counts() == later.received() == {"twin": sum(written)}
        assert later.stats()["repeated"] == 0


def test_unfinished_episodes_go_on(settings, rng):
    one, two = (cut(make_segment(rng, steps=40, episode=name)) for name in ("one", "two"))
    send(settings, [one[0], two[0], one[1], make_segment(rng, episode="whole")], incarnation="life")
    reader = read_all(reader_of(settings))
    again = come_back(reader, settings)
    assert again.stats()["open_episodes"] == 2
    assert again.counts() == {"twin": 4}
    with ReplayWriter(settings, SCHEMA, actor="twin/0", incarnation="life", spool=None) as writer:
        for segment in [*[make_segment(rng)] * 4, two[1], one[2], two[2]]:  # the first four are there already
            writer.add(segment, ("twin",))
        assert writer.flush(20) == 0
    assert_level(read_all(reader), read_all(again))
    assert again.counts() == {"twin": 4 + 80}
    assert again.stats()["cut_short"] == 0


def test_how_long_an_episode_without_an_end_is_waited_for_goes_on_too(settings, rng):
    segments = [cut(make_segment(rng, steps=40, episode="dropped"))[0]]
    segments += [make_segment(rng, episode=f"e{i}") for i in range(12)]
    with ReplayWriter(settings, SCHEMA, actor="twin/0", spool=None) as writer:
        reader, again = reader_of(settings), reader_of(settings)
        for segment in segments:
            writer.add(segment, ("twin",))
            assert writer.flush(20) == 0
            again = read_all(come_back(again, settings))
            assert_level(read_all(reader), again)
            assert again.stats()["open_episodes"] == reader.stats()["open_episodes"]
    assert reader.stats()["cut_short"] == 1


def test_images_come_back_from_memory_and_from_the_server(settings, rng):
    send(settings, interleaved(rng, 12))
    row_bytes = 2 * 3 * 16 * 16
    for memory in (0, 60 * row_bytes, 1 << 20):
        options = {
            "fields": ("embedding", "side", "wrist"),
            "window": 2,
            "image_memory_bytes": memory,
            "capacity": {"twin": 120},
        }
        with reader_of(settings, **options) as reader:
            wait_until(reader.caught_up)
            again = come_back(reader, settings, **options)
            assert_level(reader, again)
            again.close()


def test_readouts_are_computed_again_to_the_same_bits(settings, rng):
    calls = []

    def embed(episode) -> np.ndarray:
        calls.append(episode.name)
        side = episode.observation.side.reshape(len(episode.observation.side), -1)
        return np.tanh(side.astype(np.float32) @ weights)

    weights = rng.normal(size=(3 * 16 * 16, 5)).astype(np.float32) / 3000
    send(settings, interleaved(rng, 10, backbone_id="old"))
    options = {"embed": embed, "backbone_id": "new"}
    reader = read_all(reader_of(settings, **options))
    first = calls.copy()
    calls.clear()
    assert_level(reader, come_back(reader, settings, **options))
    assert calls == first


def test_a_reader_of_nothing_comes_back(settings, rng):
    reader = read_all(reader_of(settings))
    again = come_back(reader, settings)
    send(settings, [make_segment(rng)])
    assert_level(read_all(reader), read_all(again))


def test_with_another_capacity_the_order_stays(settings, rng):
    send(settings, interleaved(rng, 12, outcome=Outcome.FAILURE))
    reader = read_all(reader_of(settings, sampling={"twin": Priority()}))
    smaller = come_back(reader, settings, capacity={"twin": 60})
    fresh = read_all(reader_of(settings, capacity={"twin": 60}))
    assert_level(smaller, fresh)


def test_a_restore_that_is_stopped_is_still_to_come(settings, rng):
    send(settings, interleaved(rng, 5))
    position = stored(read_all(reader_of(settings)).position())
    again = reader_of(settings, resume=position)
    again.restore(RestoreSettings(stop=lambda: True))
    assert again.counts() == {"twin": 0}
    assert again.position() is position


def test_what_is_not_a_position_is_refused(settings, rng):
    send(settings, [make_segment(rng)])
    position = read_all(reader_of(settings)).position()
    manifest, arrays = position.manifest(), position.arrays
    for bad in ({"format": 1, "shards": [], "mirrors": {}}, manifest | {"format": 3}):
        with pytest.raises(CorruptData, match=r"format \d, this program reads format 2: go on with the version"):
            Position.parse(bad, arrays)
    for bad in (manifest | {"logs": 3}, manifest | {"unknown": 1}):
        with pytest.raises(CorruptData, match="position"):
            Position.parse(bad, arrays)
    for name, array in (("twin.segments", arrays["twin.segments"][:0]), ("twin.episodes", np.zeros((1, 2), np.int64))):
        with pytest.raises(CorruptData, match="position"):
            Position.parse(manifest, arrays | {name: array})
    with pytest.raises(CorruptData, match="without the episodes of 'twin'"):
        Position.parse(manifest, {})
