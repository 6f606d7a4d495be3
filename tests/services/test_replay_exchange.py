"""Tests writers and readers through a real server: the embedded one, and a `redis-server` where there is one."""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import redis
from replay_samples import (
    SCHEMA,
    START,
    Names,
    assert_same,
    cut,
    make_segment,
    names_in,
    read_all,
    reader_of,
    send,
    wait_until,
)

from protos.codec import decode_segment, read_header, read_prefix
from protos.errors import InputError
from services.replay import (
    EmbeddedServer,
    ReplaySettings,
    ReplayWriter,
    Uniform,
    delete_buffer,
    read_episodes,
    totals,
)

names = count()


@pytest.fixture(scope="module", params=["embedded", "redis-server"])
def url(request, tmp_path_factory) -> Iterator[str]:
    binary = None
    if request.param == "redis-server":
        found = shutil.which("redis-server")
        if found is None:
            pytest.skip("no redis-server on the PATH")
        binary = Path(found)
    with EmbeddedServer(tmp_path_factory.mktemp("server"), binary=binary) as server:
        yield server.url


@pytest.fixture
def settings(url) -> ReplaySettings:
    """Makes a replay of its own for each test, on the shared server."""
    return ReplaySettings(urls=(url,), prefix=f"test{next(names)}")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def writer_of(settings: ReplaySettings, **options) -> ReplayWriter:
    return ReplayWriter(settings, SCHEMA, **({"actor": "twin/0", "spool": None} | options))


def test_an_episode_comes_back_whole_with_its_frames(settings, rng):
    whole = make_segment(rng, steps=40, versions=(7, 9))
    send(settings, cut(whole))
    reader = read_all(reader_of(settings))
    (episode,) = read_episodes(settings, SCHEMA, ("twin",))
    for name in ("task", "scene", "instruction", "configuration", "outcome", "source", "backbone_id"):
        assert getattr(episode, name) == getattr(whole, name)
    assert (episode.name, episode.versions) == (whole.episode, (7, 9))
    for name in ("action", "reward", "human", "embedding"):
        np.testing.assert_array_equal(getattr(episode, name), getattr(whole, name))
    for name in ("side", "wrist", "proprio"):
        np.testing.assert_array_equal(getattr(episode.observation, name), getattr(whole.observation, name))
    assert reader.counts() == {"twin": 40}
    assert reader.received() == {"twin": 40} == {"twin": totals(settings)["twin"]}


def test_anyone_can_read_a_segment_with_plain_redis_commands(settings, rng):
    segment = make_segment(rng)
    send(settings, [segment], incarnation="life")
    with redis.Redis.from_url(settings.urls[0]) as client:
        tag = f"{{{settings.prefix}:twin}}"
        ((_, entry),) = client.xrange(f"{tag}:index")
        blob = client.get(f"{tag}:segment:{entry[b'ring'].decode()}")
        stages = client.keys(f"{tag}:stage:*")
    header, decoded = decode_segment(blob, SCHEMA)
    head = read_prefix(blob).head
    assert read_header(blob[:head]) == header
    assert_same(decoded, segment)
    assert (header.actor, header.incarnation, header.seq) == ("twin/0", "life", 0)
    assert {name.decode(): value.decode() for name, value in entry.items()} == {
        "ring": "1", "seq": "0", "steps": "4", "transitions": "4", "bytes": str(len(blob)), "head": str(head),
        "actor": "twin/0", "incarnation": "life", "episode": segment.episode, "first_step": "0", "outcome": "success",
        "source": "twin", "cell": str(START.cell), "human": str(int(segment.human.any())),
        "oldest_version": "4", "newest_version": "5",
    }  # fmt: skip
    assert stages == []


def test_one_segment_goes_to_several_buffers(settings, rng):
    segments = [make_segment(rng, episode=f"e{i}") for i in range(6)]
    with writer_of(settings) as writer:
        for i, segment in enumerate(segments):
            writer.add(segment, ("real", "human") if i % 2 else ("real",))
        assert writer.flush(10) == 0

    def names_of(*buffers, where=None):
        return [episode.name for episode in read_episodes(settings, SCHEMA, buffers, where=where)]

    assert names_of("real") == [f"e{i}" for i in range(6)]
    assert names_of("human") == ["e1", "e3", "e5"]
    assert sorted(names_of("real", "human")) == sorted([*names_of("real"), *names_of("human")])
    assert names_of("real", where=lambda episode: episode.name > "e3") == ["e4", "e5"]


def test_writers_side_by_side_lose_and_double_nothing(settings):
    def work(index: int) -> None:
        rng = np.random.default_rng(index)
        segments = [make_segment(rng, episode=f"{index}/{i}", steps=2) for i in range(40)]
        send(settings, segments, actor=f"twin/{index}", codec=("zstd", "jpeg", "raw")[index % 3])

    taken = Names()
    reader = taken.reader(settings)
    threads = [threading.Thread(target=work, args=(index,)) for index in range(5)]
    with reader:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: reader.received()["twin"] == 400)
    names = taken.names
    assert sorted(names) == sorted(f"{index}/{i}" for index in range(5) for i in range(40))
    for index in range(5):
        assert [name for name in names if name.startswith(f"{index}/")] == [f"{index}/{i}" for i in range(40)]


def test_the_server_keeps_the_newest_segments_within_its_bytes(settings, rng):
    segments = [make_segment(rng, episode=f"e{i}") for i in range(50)]
    with writer_of(settings) as writer:
        writer.add(segments[0], ("twin",))
        writer.flush(10)
        size = int(writer.stats()["bytes_sent"])
    small = replace(settings, capacity_bytes=10 * size + size // 2)
    send(small, segments[1:], incarnation="next")
    reader = read_all(reader_of(small))
    assert names_in(small) == [f"e{i}" for i in range(40, 50)]
    assert reader.received() == {"twin": 200}
    with redis.Redis.from_url(small.urls[0]) as client:
        assert len(client.keys(f"*{small.prefix}:twin}}:segment:*")) == 10
        assert client.xlen(f"{{{small.prefix}:twin}}:index") == 10


def test_a_reader_that_falls_behind_counts_what_it_missed(settings, rng):
    reader = reader_of(settings)
    send(settings, [make_segment(rng)], incarnation="one")
    read_all(reader)
    tiny = replace(settings, capacity_bytes=1)
    send(tiny, [make_segment(rng, episode=f"e{i}") for i in range(5)], incarnation="two")
    read_all(reader)
    assert reader.stats()["missed"] == 4
    assert reader.stats()["segments"] == 2


def test_damaged_segments_are_dropped_counted_and_logged(settings, rng, caplog):
    segments = [make_segment(rng, episode=f"e{i}") for i in range(5)]
    send(settings, segments)
    with redis.Redis.from_url(settings.urls[0]) as client:
        slot = f"{{{settings.prefix}:twin}}:segment:%d"
        client.setrange(slot % 1, 200, b"\xff\x00\xff")
        client.set(slot % 2, client.get(slot % 3))
        client.delete(slot % 4)
        client.xadd(f"{{{settings.prefix}:twin}}:index", {"ring": "x"})
    assert names_in(settings) == ["e2", "e4"]
    reader = read_all(reader_of(settings, fields=("side",)))
    stats = reader.stats()
    assert (stats["corrupt"], stats["overwritten"], stats["segments"]) == (2, 2, 2)
    assert "checksum" in caplog.text


def test_not_a_number_never_reaches_a_batch(settings, rng, caplog):
    poisoned = make_segment(rng, episode="bad")
    poisoned.embedding[1, 0] = np.nan
    send(settings, [poisoned, make_segment(rng, episode="good")])
    reader = reader_of(settings)
    read_all(reader)
    assert reader.counts() == {"twin": 4}
    assert reader.stats()["corrupt"] == 1
    assert "NaN" in caplog.text


class TestAllowance:
    def test_a_writer_waits_until_it_may_go_on(self, settings, rng):
        reader = reader_of(settings)
        reader.allow("twin", 10)
        reader.poll()
        with writer_of(settings) as writer:
            for i in range(3):
                writer.wait_for_allowance("twin", lambda: False)
                writer.add(make_segment(rng, episode=f"e{i}"), ("twin",))
            passed = threading.Event()

            def wait() -> None:
                writer.wait_for_allowance("twin", lambda: False)
                passed.set()

            thread = threading.Thread(target=wait)
            thread.start()
            assert not passed.wait(0.3)
            reader.allow("twin", 13)
            reader.poll()
            assert passed.wait(10)
            thread.join()

    def test_waiting_ends_when_told(self, settings, rng):
        reader = reader_of(settings)
        reader.allow("twin", 0)
        reader.poll()
        with writer_of(settings) as writer:
            asked = iter([False, False, True])
            writer.wait_for_allowance("twin", lambda: next(asked))
            writer.wait_for_allowance("demo", iter([False]).__next__)  # without a limit it asks once


def test_an_emptied_buffer_goes_on_with_new_segments_only(settings, rng):
    reader = reader_of(settings)
    with writer_of(settings) as writer:
        writer.add(make_segment(rng, episode="old"), ("twin",))
        writer.flush(10)
        assert delete_buffer(settings, "twin") == 1
        assert totals(settings)["twin"] == 0
        writer.add(make_segment(rng, episode="new", steps=5), ("twin",))
        writer.flush(10)
    read_all(reader)
    assert reader.counts() == {"twin": 5} == {"twin": totals(settings)["twin"]}


def test_stats_of_both_ends(settings, rng):
    with writer_of(settings) as writer:
        for i in range(3):
            writer.add(make_segment(rng, episode=f"e{i}"), ("twin",))
        writer.flush(10)
        stats = writer.stats()
    assert (stats["segments"], stats["transitions"], stats["sent"], stats["unsent"]) == (3, 12, 3, 0)
    assert stats["dropped"] == stats["repeated"] == 0
    reader = reader_of(settings)
    read_all(reader)
    assert (reader.stats()["segments"], reader.stats()["episodes"]) == (3, 3)


def test_mistakes_are_named(settings, rng):
    with pytest.raises(InputError, match="'attic': choose one of demo, twin, real, human"):
        reader_of(settings, capacity={"attic": 100})
    with pytest.raises(InputError, match="sampling of 'real': it has no capacity"):
        reader_of(settings, sampling={"real": Uniform()})
    with pytest.raises(InputError, match=r"gamma=1\.5"):
        reader_of(settings, gamma=1.5)
    with pytest.raises(InputError, match="n_step=0"):
        reader_of(settings, n_step=0)
    with pytest.raises(InputError, match="capacity of 'twin'=3"):
        reader_of(settings, capacity={"twin": 3})
    with pytest.raises(InputError, match="nothing to sample in buffer 'twin'"):
        reader_of(settings).sample(rng, {"twin": 4})
    with writer_of(settings) as writer:
        with pytest.raises(InputError, match="'attic'"):
            writer.add(make_segment(rng), ("attic",))
        with pytest.raises(InputError, match="name the buffers"):
            writer.add(make_segment(rng), ())
