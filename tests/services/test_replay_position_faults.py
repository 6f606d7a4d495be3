"""Tests a restored reader on servers that have lost, received or given away something meanwhile."""

import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import redis
from position_samples import assert_level, come_back, draws, interleaved, stored
from replay_samples import cut, make_segment, read_all, reader_of, send, wait_until

from protos.errors import Unreachable
from services.replay import EmbeddedServer, Keys, ReplayReader, ReplaySettings, RestoreSettings, delete_buffer, shard_of
from services.replay.read.log import Tail
from services.replay.read.sampling import Priority

names = count()


@pytest.fixture
def server(tmp_path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "server") as server:
        yield server


@pytest.fixture
def other(tmp_path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "other") as server:
        yield server


@pytest.fixture
def settings(server) -> ReplaySettings:
    return ReplaySettings(urls=(server.url,))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def kill(server: EmbeddedServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.running())


def warnings(caplog) -> list[str]:
    found = [record.getMessage() for record in caplog.records if "checkpoint counted on" in record.getMessage()]
    caplog.clear()
    return found


def contents(reader: ReplayReader) -> dict[int, bytes]:
    """Returns the action of every row drawn, by its number."""
    batch = draws(reader, 3000)
    return {row: action.tobytes() for row, action in zip(batch.rows.tolist(), batch.action, strict=True)}


def test_a_server_that_was_restarted_still_has_everything(server, settings, rng, caplog):
    send(settings, interleaved(rng, 20))
    reader = read_all(reader_of(settings))
    server.stop()
    server.start()
    again = come_back(reader, settings)
    assert_level(reader, again)
    send(settings, interleaved(rng, 5), incarnation="later")
    assert_level(read_all(reader), read_all(again))
    assert warnings(caplog) == []


def test_rows_of_lost_episodes_stay_empty_and_the_others_where_they_were(server, settings, rng, caplog):
    segments = [make_segment(rng, episode=f"e{i}") for i in range(10)]
    options = {"sampling": {"twin": Priority()}, "capacity": {"twin": 41}}
    send(settings, segments)
    reader = read_all(reader_of(settings, **options))
    batch = draws(reader)
    reader.update_priorities(batch, rng.normal(size=len(batch)))
    before = contents(reader)
    with redis.Redis.from_url(server.url) as client:
        for slot in (4, 5, 10):
            client.delete(Keys(settings.prefix, "twin").slots + str(slot))
    with caplog.at_level(logging.WARNING):
        again = come_back(reader, settings, **options)
    (said,) = warnings(caplog)
    assert "no longer has 3 of the 9 episodes" in said  # the first has left the index
    assert again.counts() == {"twin": reader.counts()["twin"] - 3 * 4}
    assert again.received() == reader.received()
    after = contents(again)
    assert len(after) == again.counts()["twin"]
    assert after.items() < before.items()
    kept = np.isin(batch.rows, list(after))
    again.update_priorities(batch, np.where(kept, np.nan, 1.0))  # of rows that are gone: no effect
    assert contents(again) == after
    assert_level(again, come_back(again, settings, **options))


def test_an_emptied_buffer_is_missed_and_gone_on_with(settings, rng, caplog):
    send(settings, interleaved(rng, 7), incarnation="one")
    reader = read_all(reader_of(settings))
    delete_buffer(settings, "twin")
    send(settings, [make_segment(rng, episode="new", steps=5)], incarnation="two")
    with caplog.at_level(logging.WARNING):
        again = read_all(come_back(reader, settings))
    assert "no longer has 7 of the 7" in warnings(caplog)[0]
    assert again.counts() == {"twin": 5}


def test_a_replaced_server_is_read_from_its_beginning(settings, other, rng, caplog):
    """Though the new one's clock, which names its entries, may be behind."""
    segments = [make_segment(rng, episode=f"e{i}") for i in range(8)]
    send(settings, segments[:5], incarnation="life")
    position = stored(read_all(reader_of(settings)).position())
    elsewhere = replace(settings, urls=(other.url,))
    with redis.Redis.from_url(other.url) as client:
        client.xadd(Keys(settings.prefix, "twin").index, {"no": "entry"}, id="1-1")
    send(elsewhere, segments, incarnation="life")
    with redis.Redis.from_url(other.url) as client:  # with entries that are older than the position
        index = Keys(settings.prefix, "twin").index
        entries = client.xrange(index)
        client.delete(index)
        for number, (_, entry) in enumerate(entries, 1):
            client.xadd(index, entry, id=f"{number}-1")
    reader = reader_of(elsewhere, resume=position)
    reader.restore()
    assert reader.counts() == {"twin": 5 * 4}
    read_all(reader)
    assert reader.counts() == {"twin": 8 * 4}
    assert (reader.stats()["episodes"], reader.stats()["repeated"]) == (8, 5)


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_server_lost_and_gets_again_from_a_spool_counts_as_new(server, settings, rng, tmp_path, caplog, when):
    """A crash lost the server's last second; the reader had read it, and its writer sends it once more."""
    segments = [make_segment(rng, episode=f"e{i}") for i in range(8)]
    send(settings, segments[:4], incarnation="life")
    server.stop()
    shutil.copytree(server.directory, tmp_path / "older")
    server.start()
    send(settings, segments[:6], incarnation="life")
    reader = read_all(reader_of(settings))
    kill(server)
    shutil.rmtree(server.directory)
    shutil.copytree(tmp_path / "older", server.directory)
    server.start()
    if when == "before":
        send(settings, segments, incarnation="life")
    with caplog.at_level(logging.WARNING):
        again = read_all(come_back(reader, settings))
    if when == "after":
        again = come_back(again, settings)
        send(settings, segments, incarnation="life")
    missed = {"before": 0, "after": 2}[when]
    assert [f"no longer has {missed} of the 6" in said for said in warnings(caplog)][:1] == [True][:missed]
    assert read_all(again).counts() == {"twin": 8 * 4}
    assert set(contents(again).values()) == {action.tobytes() for each in segments for action in each.action}


def test_what_left_the_ring_while_nobody_read_is_counted(server, rng):
    settings = ReplaySettings(urls=(server.url,), capacity_bytes=60_000)
    send(settings, [make_segment(rng, episode="first")], incarnation="one")
    reader = read_all(reader_of(settings))
    send(settings, [make_segment(rng, episode=f"e{i}") for i in range(40)], incarnation="two")
    again = read_all(come_back(reader, settings))
    stats = again.stats()
    assert stats["missed"] > 0
    assert again.counts()["twin"] == 4 * stats["segments"]
    assert stats["missed"] + stats["segments"] == 40
    assert again.received() == {"twin": 41 * 4}


def test_open_episodes_count_once_when_the_server_fails_between_two_buffers(settings, rng, monkeypatch):
    for buffer in ("twin", "demo"):
        send(settings, [cut(make_segment(rng, steps=30, episode=buffer))[0]], buffer, actor=buffer)
    options = {"capacity": {"twin": 1000, "demo": 1000}}
    reader = read_all(reader_of(settings, **options))
    again, asked = Tail.again, count()

    def failing(tail, episodes):
        if next(asked) == 1:
            raise redis.ConnectionError("gone for a moment")
        return again(tail, episodes)

    monkeypatch.setattr(Tail, "again", failing)
    later = reader_of(settings, resume=stored(reader.position()), **options)
    later.restore()
    assert next(asked) == 4
    for name in ("open_episodes", "memory_bytes"):
        assert later.stats()[name] == reader.stats()[name] > 0, name


class TestAShardThatIsAway:
    @pytest.fixture
    def pair(self, server, other) -> ReplaySettings:
        return ReplaySettings(urls=(server.url, other.url), connect_timeout_s=1.0, command_timeout_s=1.0)

    @pytest.fixture
    def reader(self, pair, rng) -> ReplayReader:
        """A reader of four transitions on each shard."""
        for shard in (0, 1):
            actor = next(name for name in (f"twin/{i}" for i in count()) if shard_of(name, 2) == shard)
            send(pair, [make_segment(rng, episode=actor)], actor=actor)
        return read_all(reader_of(pair))

    def test_it_is_waited_for(self, pair, reader, other):
        kill(other)
        told, back = [], threading.Event()

        def waiting(text: str) -> None:
            told.append(text)
            back.set()

        def bring_back() -> None:
            assert back.wait(30)
            other.start()
            done.wait(60)

        done = threading.Event()
        starter = threading.Thread(target=bring_back)
        starter.start()
        again = reader_of(pair, resume=stored(reader.position()))
        again.restore(RestoreSettings(timeout_s=60, waiting=waiting))
        assert "shard 1" in told[0]
        assert_level(reader, again)
        done.set()
        starter.join()

    def test_the_error_says_how_to_go_on_without_it(self, pair, reader, other):
        kill(other)
        again = reader_of(pair, resume=stored(reader.position()))
        with pytest.raises(Unreachable, match=r"shard 1 .* set partial=true"):
            again.restore(RestoreSettings(timeout_s=0.1))

    def test_it_can_be_done_without(self, pair, reader, other, rng, caplog):
        kill(other)
        again = reader_of(pair, resume=stored(reader.position()))
        with caplog.at_level(logging.WARNING):
            restored = again.restore(RestoreSettings(timeout_s=0.1, partial=True))
        assert (restored.wanted, restored.missing) == (2, 1)
        assert len(warnings(caplog)) == 1
        assert again.counts() == {"twin": 4}
        assert again.received() == {"twin": 8}
        other.start()
        wait_until(lambda: again.poll() == 0 and again.stats()["shards_away"] == 0)
        assert again.counts() == {"twin": 4}

    def test_one_that_had_nothing_is_not_waited_for(self, pair, other, rng):
        kill(other)
        settings = replace(pair, urls=pair.urls[:1])
        send(settings, [make_segment(rng)])
        reader = read_all(reader_of(pair))
        again = reader_of(pair, resume=stored(reader.position()))
        assert again.restore(RestoreSettings(timeout_s=0.1)).missing == 0
        assert again.counts() == {"twin": 4}
