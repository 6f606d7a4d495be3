"""Tests a replay of two servers: a fault of one never delays the other, and nothing is lost or doubled."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import redis
from replay_samples import SCHEMA, Names, make_segment, names_in, read_all, reader_of, send, wait_until

from protos.errors import SchemaMismatch, Unreachable
from protos.schema import Schema
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter, presence, shard_of, totals

names = count()


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    with (
        EmbeddedServer(tmp_path_factory.mktemp("one")) as one,
        EmbeddedServer(tmp_path_factory.mktemp("other")) as other,
    ):
        yield one, other


@pytest.fixture
def settings(pair) -> Iterator[ReplaySettings]:
    """Makes a replay of its own for each test, on the two servers, both of which run again afterwards."""
    urls = tuple(server.url for server in pair)
    yield ReplaySettings(urls=urls, prefix=f"test{next(names)}", connect_timeout_s=2.0, command_timeout_s=2.0)
    for server in pair:
        if not server.running():
            server.start()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def actor_on(shard: int, number: int = 0) -> str:
    """Finds the name of an actor that writes to this shard."""
    fitting = (f"twin/{i}" for i in count() if shard_of(f"twin/{i}", 2) == shard)
    return next(name for i, name in enumerate(fitting) if i == number)


def kill(server: EmbeddedServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.running())


class Load:
    """Runs two writers, one per shard, that write episodes of one segment until stopped."""

    def __init__(self, settings: ReplaySettings) -> None:
        self._stop = threading.Event()
        self._writers = [ReplayWriter(settings, SCHEMA, actor=actor_on(shard), spool=None) for shard in (0, 1)]
        self._threads = [threading.Thread(target=self._write, args=(shard,)) for shard in (0, 1)]
        self.names: list[str] = []

    def _write(self, shard: int) -> None:
        rng = np.random.default_rng(shard)
        for number in count():
            if self._stop.wait(0.005):
                return
            name = f"shard{shard}/{number}"
            self._writers[shard].add(make_segment(rng, steps=2, episode=name), ("twin",))
            self.names.append(name)

    def unsent(self) -> list[int]:
        return [writer.unsent() for writer in self._writers]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def __exit__(self, *_: object) -> None:
        self.stop()
        for writer in self._writers:
            writer.close()


def test_actors_write_to_their_shard_and_a_reader_sees_them_all(settings, rng):
    for shard, steps in ((0, 3), (1, 5)):
        send(settings, [make_segment(rng, steps=steps, episode=f"on{shard}")], actor=actor_on(shard))
        assert names_in(replace(settings, urls=settings.urls[shard : shard + 1])) == [f"on{shard}"]
    assert sorted(names_in(settings)) == ["on0", "on1"]
    reader = read_all(reader_of(settings))
    assert reader.counts() == reader.received() == {"twin": 8} == {"twin": totals(settings)["twin"]}
    batch = reader.sample(rng, {"twin": 100})
    assert {reader.actors()[number] for number in batch.actor.tolist()} == {actor_on(0), actor_on(1)}


def test_a_killed_shard_delays_nobody_and_what_it_missed_arrives_once(settings, pair):
    taken = Names()
    with Load(settings) as load, taken.reader(settings) as reader:
        wait_until(lambda: {name[:6] for name in taken.names} == {"shard0", "shard1"})
        kill(pair[1])
        wait_until(lambda: reader.stats()["shards_away"] == 1)
        before, spooled = len(taken.names), load.unsent()[1]
        wait_until(lambda: len(taken.names) > before + 30 and load.unsent()[1] > spooled + 30)
        stats = reader.stats()
        assert (stats["shards"], stats["shards_away"]) == (2, 1)
        assert stats["shard_1_away_s"] > 0
        assert "shard_0_away_s" not in stats
        assert len(reader.sample(np.random.default_rng(0), {"twin": 64})) == 64
        pair[1].start()
        load.stop()
        wait_until(lambda: load.unsent() == [0, 0])
        wait_until(lambda: len(taken.names) >= len(load.names))
        assert reader.stats()["shards_away"] == 0
        assert sorted(taken.names) == sorted(load.names)
    assert sorted(names_in(settings)) == sorted(load.names)


def test_images_that_are_not_in_memory_come_from_the_shards_that_answer(settings, pair, rng):
    for shard in (0, 1):
        segments = [make_segment(rng, episode=f"{shard}/{i}") for i in range(5)]
        send(settings, segments, actor=actor_on(shard))
    with reader_of(settings, fields=("side",), image_memory_bytes=0) as reader:
        wait_until(lambda: reader.counts()["twin"] == 40)

        def drawn_from() -> set[str]:
            return {reader.actors()[number] for number in reader.sample(rng, {"twin": 64}).actor.tolist()}

        assert drawn_from() == {actor_on(0), actor_on(1)}
        kill(pair[1])
        for _ in range(20):
            assert drawn_from() == {actor_on(0)}
        kill(pair[0])
        with pytest.raises(Unreachable):
            drawn_from()
        for server in pair:
            server.start()
        wait_until(lambda: reader.stats()["shards_away"] == 0)
        wait_until(lambda: drawn_from() == {actor_on(0), actor_on(1)})


def test_a_new_reader_begins_with_the_shards_that_answer(settings, pair, rng):
    for shard in (0, 1):
        send(settings, [make_segment(rng, episode=f"on{shard}")], actor=actor_on(shard))
    pair[0].stop()
    taken = Names()
    with taken.reader(settings) as reader:
        wait_until(reader.caught_up)
        assert taken.names == ["on1"]
        pair[0].start()
        wait_until(lambda: taken.names == ["on1", "on0"])
    kill(pair[0])
    by_hand = Names()
    read_all(by_hand.reader(settings))
    assert by_hand.names == ["on1"]


def test_with_no_shard_at_all_there_is_no_reader(settings, pair):
    for server in pair:
        kill(server)
    reader = reader_of(settings)
    with pytest.raises(Unreachable, match="did not answer"):
        reader.poll()
    reader.close()
    with pytest.raises(Unreachable, match="did not answer"):
        reader_of(settings).start()


def test_a_shard_of_another_schema_is_refused(settings, rng):
    send(settings, [make_segment(rng)], actor=actor_on(0))
    other = Schema(side_px=32, wrist_px=16)
    with ReplayWriter(replace(settings, urls=settings.urls[1:]), other, actor="odd", spool=None) as writer:
        writer.add(make_segment(rng, schema=other), ("twin",))
        assert writer.flush(20) == 0
    with pytest.raises(SchemaMismatch, match=other.hash):
        reader_of(settings).start()
    with pytest.raises(SchemaMismatch, match=other.hash):
        read_all(reader_of(settings))


def test_a_shard_that_comes_back_with_another_schema_is_refused(settings, pair):
    reader = read_all(reader_of(settings))
    kill(pair[0])
    reader.poll()
    pair[0].start()
    with redis.Redis.from_url(settings.urls[0]) as client:
        client.set(f"{settings.prefix}:schema", "another")
    with pytest.raises(SchemaMismatch, match="another"):
        wait_until(lambda: reader.poll() < 0)


def test_segments_that_a_server_lost_and_got_again_count_once(settings, rng):
    segments = [make_segment(rng, episode=f"e{i}") for i in range(6)]
    taken = Names()
    reader = taken.reader(settings)
    for shard in (0, 1):
        send(settings, segments[:4], actor=actor_on(shard), incarnation="life")
        read_all(reader)
        with redis.Redis.from_url(settings.urls[shard]) as client:
            client.delete(f"{{{settings.prefix}:twin}}:seen")
        send(settings, segments, actor=actor_on(shard), incarnation="life")
        read_all(reader)
    assert sorted(taken.names) == sorted(2 * [segment.episode for segment in segments])
    assert reader.stats()["repeated"] == 2 * 4
    assert reader.counts() == {"twin": 2 * 6 * 4}


def test_a_server_that_is_full_can_still_be_read(settings, pair, rng):
    send(settings, [make_segment(rng)], actor=actor_on(0))
    with redis.Redis.from_url(settings.urls[0]) as client:
        client.config_set("maxmemory", 1)
        try:
            reader = reader_of(settings)
            reader.allow("twin", 10)
            read_all(reader)
            assert reader.counts() == {"twin": 4}
            assert reader.stats()["shards_away"] == 0
            assert reader.stats()["failures"] == 0
            assert (
                int(client.get(f"{{{settings.prefix}:twin}}:allowance")) == 4 + 3
            )  # this shard's half of what is left
        finally:
            client.config_set("maxmemory", 0)


class TestAllowance:
    def allowed(self, settings: ReplaySettings) -> list[int | None]:
        """Returns each shard's allowance; None without a limit."""
        found: list[int | None] = []
        for url in settings.urls:
            with redis.Redis.from_url(url) as client:
                total = client.get(f"{{{settings.prefix}:twin}}:allowance")
                found.append(None if total is None else int(total))
        return found

    def test_it_is_shared_and_what_one_leaves_goes_to_the_other(self, settings, rng):
        reader = reader_of(settings)
        reader.allow("twin", 101)
        reader.poll()
        assert self.allowed(settings) == [51, 51]
        send(settings, [make_segment(rng, steps=10, episode=f"e{i}") for i in range(4)], actor=actor_on(0))
        read_all(reader)
        reader.poll()
        assert self.allowed(settings) == [40 + 31, 31]
        send(settings, [make_segment(rng, steps=6)], actor=actor_on(1))
        read_all(reader)
        reader.poll()
        assert self.allowed(settings) == [40 + 28, 6 + 28]

    def test_writers_reach_the_total_though_one_shard_stands_still(self, settings):
        reader = reader_of(settings)
        reader.allow("twin", 120)
        with reader:
            wait_until(lambda: None not in self.allowed(settings))
            stop = threading.Event()
            rng = np.random.default_rng(0)
            with ReplayWriter(settings, SCHEMA, actor=actor_on(0), spool=None) as writer:

                def write() -> None:
                    for number in count():
                        writer.wait_for_allowance("twin", stop.is_set)
                        if stop.is_set():
                            return
                        writer.add(make_segment(rng, steps=2, episode=f"e{number}"), ("twin",))

                thread = threading.Thread(target=write)
                thread.start()
                wait_until(lambda: reader.received()["twin"] >= 120)
                stop.set()
                thread.join()
            assert reader.received()["twin"] <= 120 + 4


def test_others_see_the_reader_on_every_shard_until_it_leaves(settings):
    def found() -> list[tuple[str, int]]:
        return [(each.name, each.shard) for each in presence(settings) if each.kind == "reader"]

    with reader_of(settings, name="learner"):
        wait_until(lambda: found() == [("learner", 0), ("learner", 1)])
    assert found() == []


def test_lag_and_memory_are_told(settings, rng):
    reader = reader_of(settings)
    send(settings, [make_segment(rng, episode=f"e{i}") for i in range(5)], actor=actor_on(1))
    read_all(reader)
    stats = reader.stats()
    assert stats["lag_segments"] == stats["lag_transitions"] == 0
    assert stats["memory_bytes"] > 10_000 * (25 + 3) * 4
    assert stats["transitions_per_s"] > 0
    assert stats["bytes_per_s"] > stats["transitions_per_s"]
