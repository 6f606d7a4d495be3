"""Tests how a reader assembles episodes, and what it does about incomplete ones and missing readouts."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import redis
from replay_samples import SCHEMA, cut, make_segment, read_all, reader_of, send, wait_until

from protos.errors import Unreachable
from protos.schema import Outcome
from services.replay import Batch, EmbeddedServer, ReplayReader, ReplaySettings, newest, read_episodes

names = count()


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as server:
        yield server.url


@pytest.fixture
def settings(url) -> ReplaySettings:
    """A replay of its own for each test, on the shared server."""
    return ReplaySettings(urls=(url,), prefix=f"test{next(names)}")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


class TestUnfinishedEpisodes:
    """An episode without an end bootstraps like a timeout, once nothing more of it can be expected."""

    def batch(self, reader: ReplayReader) -> Batch:
        return reader.sample(np.random.default_rng(0), {"twin": 200})

    def test_the_actors_next_life_closes_them(self, settings, rng):
        whole = make_segment(rng, steps=40, outcome=Outcome.SUCCESS)
        send(settings, cut(whole)[:2], incarnation="one")
        reader = reader_of(settings)
        read_all(reader)
        assert reader.counts() == {"twin": 0}
        assert reader.stats()["open_episodes"] == 1
        send(settings, [make_segment(rng, episode="next")], incarnation="two")
        read_all(reader)
        assert reader.counts() == {"twin": 36}
        assert reader.stats()["cut_short"] == 1
        batch = self.batch(reader)
        unfinished = np.isin(batch.embedding[:, 0], whole.embedding[:, 0])
        assert (batch.discount[unfinished] > 0).all()

    def test_so_does_an_actor_that_goes_on_without_them(self, settings, rng):
        dropped = cut(make_segment(rng, steps=40, episode="dropped"))[:1]
        later = [make_segment(rng, episode=f"e{i}") for i in range(20)]
        send(settings, [*dropped, *later])
        reader = read_all(reader_of(settings))
        assert reader.stats()["open_episodes"] == 0
        by_name = {episode.name: episode for episode in read_episodes(settings, SCHEMA, ("twin",))}
        assert by_name["dropped"].outcome is Outcome.RUNNING
        assert len(by_name["dropped"].action) == 16

    def test_many_slots_side_by_side_are_not_mistaken_for_dropped_ones(self, settings, rng):
        episodes = [cut(make_segment(rng, steps=80, episode=f"slot{i}")) for i in range(8)]
        send(settings, [segment for turn in zip(*episodes, strict=True) for segment in turn])
        assert read_all(reader_of(settings)).stats()["cut_short"] == 0
        assert [len(episode.action) for episode in read_episodes(settings, SCHEMA, ("twin",))] == [80] * 8

    def test_a_missing_middle_splits_an_episode(self, settings, rng):
        first, _, last = cut(make_segment(rng, steps=40))
        send(settings, [first, last])
        parts = list(read_episodes(settings, SCHEMA, ("twin",)))
        assert [len(part.action) for part in parts] == [16, 8]
        assert [part.outcome for part in parts] == [Outcome.RUNNING, Outcome.SUCCESS]

    @pytest.mark.parametrize(("fields", "limit"), [(("embedding",), 2_500), (("side",), 30_000)])
    def test_too_many_waiting_bytes_close_the_oldest(self, settings, rng, fields, limit):
        """Bytes of heads, or of whole segments where the images are kept."""
        send(settings, [make_segment(rng, episode=f"e{i}", outcome=Outcome.RUNNING) for i in range(6)])
        reader = read_all(reader_of(settings, waiting_bytes=limit, fields=fields))
        assert 0 < reader.stats()["open_episodes"] < 6
        assert reader.stats()["cut_short"] == 6 - reader.stats()["open_episodes"]


class TestReadouts:
    """Embeddings that are missing or of another backbone are computed from the frames."""

    @staticmethod
    def brightness(episode) -> np.ndarray:
        return episode.observation.side.mean(axis=(1, 2, 3), dtype=np.float64)[:, None].astype(np.float32)

    def test_another_backbone_is_computed_again(self, settings, rng):
        whole = make_segment(rng, steps=30, backbone_id="old")
        own = make_segment(rng, steps=5, backbone_id="new", embedding_dim=1, episode="own")
        send(settings, [*cut(whole), own])
        seen = []
        reader = reader_of(settings, backbone_id="new", embed=lambda e: seen.append(e.name) or self.brightness(e))
        read_all(reader)
        assert seen == [whole.episode]
        batch = reader.sample(rng, {"twin": 100})
        side = whole.observation.side.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)
        assert np.isin(batch.embedding[:, 0], [*side, *own.embedding[:, 0]]).all()

    def test_a_backbone_that_changes_on_the_way_is_computed_again(self, settings, rng):
        first, second = cut(make_segment(rng, steps=20, backbone_id="new"))
        send(settings, [first, replace(second, backbone_id="", embedding=None)])
        reader = read_all(reader_of(settings, backbone_id="new", embed=self.brightness))
        assert reader.counts() == {"twin": 20}
        assert next(read_episodes(settings, SCHEMA, ("twin",))).embedding is None

    def test_without_a_way_to_compute_them_they_are_counted(self, settings, rng):
        send(settings, [make_segment(rng, embedding_dim=0)])
        reader = reader_of(settings)
        read_all(reader)
        assert reader.counts() == {"twin": 0}
        assert reader.stats()["unembedded"] == 1

    def test_a_fault_in_the_thread_reaches_the_caller(self, settings, rng):
        def broken(episode):
            raise ZeroDivisionError("readout of nothing")

        send(settings, [make_segment(rng, embedding_dim=0)])
        with reader_of(settings, embed=broken) as reader, pytest.raises(ZeroDivisionError, match="of nothing"):
            wait_until(lambda: reader.counts()["twin"] > 0)


@pytest.mark.parametrize("name", ["index", "counters"])
def test_what_was_read_before_a_failure_is_not_lost(settings, rng, name):
    """The server answers for one buffer, but not for the next."""
    send(settings, [make_segment(rng)], "demo")
    reader = reader_of(settings, capacity={"demo": 100, "twin": 100})
    with redis.Redis.from_url(settings.urls[0]) as client:
        key = f"{{{settings.prefix}:twin}}:{name}"
        client.set(key, "neither a stream nor a hash")
        with pytest.raises(Unreachable, match="WRONGTYPE"):
            read_all(reader)
        client.delete(key)
    read_all(reader)
    assert reader.counts() == {"demo": 4, "twin": 0}


def test_the_newest_episodes_stay_within_their_bytes(settings, rng):
    send(settings, [make_segment(rng, episode=f"e{i}") for i in range(10)])
    one = 5 * 2 * 16 * 16 * 3
    for limit, names in ((3 * one, ["e7", "e8", "e9"]), (1, ["e9"])):
        kept = newest(read_episodes(settings, SCHEMA, ("twin",)), limit)
        assert [episode.name for episode in kept] == names
