"""Writers and readers through a real server: the embedded one, and a `redis-server` where there is one."""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import redis
from replay_samples import SCHEMA, START, assert_same, cut, make_segment

from protos.codec import decode_segment
from protos.errors import InputError
from protos.schema import Outcome, Schema, Segment
from services.replay import EmbeddedServer, ReplayReader, ReplaySettings, ReplayWriter, delete_buffer, totals

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
    """A replay of its own for each test, on the shared server."""
    return ReplaySettings(url=url, prefix=f"test{next(names)}")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def writer_of(settings: ReplaySettings, **options) -> ReplayWriter:
    return ReplayWriter(settings, SCHEMA, **({"actor": "twin/0", "spool": None} | options))


def reader_of(settings: ReplaySettings, **options) -> ReplayReader:
    defaults = {"buffers": ("twin",), "gamma": 0.9, "n_step": 3, "capacity": {"twin": 1000}}
    return ReplayReader(settings, SCHEMA, **(defaults | options))


def send(settings: ReplaySettings, segments: list[Segment], *buffers, **options) -> None:
    with writer_of(settings, **options) as writer:
        for segment in segments:
            writer.add(segment, buffers or ("twin",))
        assert writer.flush(10) == 0


def read_all(reader: ReplayReader) -> None:
    while reader.poll():
        pass


def test_an_episode_comes_back_whole_with_its_frames(settings, rng):
    whole = make_segment(rng, steps=40, versions=(7, 9))
    send(settings, cut(whole))
    reader = reader_of(settings, keep_frames=("twin",))
    read_all(reader)
    (episode,) = reader.episodes("twin")
    for name in ("task", "scene", "instruction", "configuration", "outcome", "source", "backbone_id"):
        assert getattr(episode, name) == getattr(whole, name)
    assert (episode.name, episode.buffer, episode.versions) == (whole.episode, "twin", (7, 9))
    for name in ("action", "reward", "human", "embedding"):
        np.testing.assert_array_equal(getattr(episode, name), getattr(whole, name))
    for name in ("side", "wrist", "proprio"):
        np.testing.assert_array_equal(getattr(episode.observation, name), getattr(whole.observation, name))
    assert reader.counts() == {"twin": 40}
    assert reader.received() == {"twin": 40} == {"twin": totals(settings)["twin"]}


def test_anyone_can_read_a_segment_with_plain_redis_commands(settings, rng):
    segment = make_segment(rng)
    send(settings, [segment], incarnation="life")
    with redis.Redis.from_url(settings.url) as client:
        tag = f"{{{settings.prefix}:twin}}"
        ((_, entry),) = client.xrange(f"{tag}:index")
        blob = client.get(f"{tag}:segment:{entry[b'ring'].decode()}")
        stages = client.keys(f"{tag}:stage:*")
    header, decoded = decode_segment(blob, SCHEMA)
    assert_same(decoded, segment)
    assert (header.actor, header.incarnation, header.seq) == ("twin/0", "life", 0)
    assert {name.decode(): value.decode() for name, value in entry.items()} == {
        "ring": "1", "seq": "0", "steps": "4", "transitions": "4", "bytes": str(len(blob)), "actor": "twin/0",
        "incarnation": "life", "episode": segment.episode, "first_step": "0", "outcome": "success",
        "source": "twin", "cell": str(START.cell),
    }  # fmt: skip
    assert stages == []


def test_one_segment_goes_to_several_buffers(settings, rng):
    segments = [make_segment(rng, episode=f"e{i}") for i in range(6)]
    with writer_of(settings) as writer:
        for i, segment in enumerate(segments):
            writer.add(segment, ("real", "human") if i % 2 else ("real",))
        assert writer.flush(10) == 0
    reader = reader_of(settings, buffers=("real", "human"), capacity={}, keep_frames=("real", "human"))
    read_all(reader)
    assert [episode.name for episode in reader.episodes("real")] == [f"e{i}" for i in range(6)]
    assert [episode.name for episode in reader.episodes("human")] == ["e1", "e3", "e5"]
    late = reader.episodes("real", lambda episode: episode.name > "e3")
    assert [episode.name for episode in late] == ["e4", "e5"]


def test_writers_side_by_side_lose_and_double_nothing(settings):
    def work(index: int) -> None:
        rng = np.random.default_rng(index)
        segments = [make_segment(rng, episode=f"{index}/{i}", steps=2) for i in range(40)]
        send(settings, segments, actor=f"twin/{index}", codec=("zstd", "jpeg", "raw")[index % 3])

    reader = reader_of(settings, keep_frames=("twin",))
    threads = [threading.Thread(target=work, args=(index,)) for index in range(5)]
    with reader:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: reader.received()["twin"] == 400)
    names = [episode.name for episode in reader.episodes("twin")]
    assert sorted(names) == sorted(f"{index}/{i}" for index in range(5) for i in range(40))
    for index in range(5):
        assert [name for name in names if name.startswith(f"{index}/")] == [f"{index}/{i}" for i in range(40)]


def wait_until(condition, timeout_s: float = 30.0) -> None:
    done = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        if condition():
            return
        done.wait(0.01)
    pytest.fail("did not happen in time")


def test_the_server_keeps_the_newest_segments_within_its_bytes(settings, rng):
    segments = [make_segment(rng, episode=f"e{i}") for i in range(50)]
    with writer_of(settings) as writer:
        writer.add(segments[0], ("twin",))
        writer.flush(10)
        size = int(writer.stats()["bytes_sent"])
    small = replace(settings, capacity_bytes=10 * size + size // 2)
    send(small, segments[1:], incarnation="next")
    reader = reader_of(small, keep_frames=("twin",))
    read_all(reader)
    assert [episode.name for episode in reader.episodes("twin")] == [f"e{i}" for i in range(40, 50)]
    assert reader.received() == {"twin": 200}
    with redis.Redis.from_url(small.url) as client:
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
    with redis.Redis.from_url(settings.url) as client:
        slot = f"{{{settings.prefix}:twin}}:segment:%d"
        client.setrange(slot % 1, 200, b"\xff\x00\xff")
        client.set(slot % 2, client.get(slot % 3))
        client.delete(slot % 4)
        client.xadd(f"{{{settings.prefix}:twin}}:index", {"ring": "x"})
    reader = reader_of(settings, keep_frames=("twin",))
    read_all(reader)
    assert [episode.name for episode in reader.episodes("twin")] == ["e2", "e4"]
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


def test_a_writer_with_other_cameras_is_left_out_by_name(settings, rng, caplog):
    other = Schema(side_px=32, wrist_px=16)
    with ReplayWriter(settings, other, actor="odd", spool=None) as writer:
        writer.add(make_segment(rng, schema=other), ("twin",))
        writer.flush(10)
    reader = reader_of(settings)
    read_all(reader)
    assert reader.stats()["wrong_schema"] == 1
    assert "odd" in caplog.text
    assert other.hash in caplog.text


class TestUnfinishedEpisodes:
    """An episode without an end bootstraps like a timeout, once nothing more of it can be expected."""

    def batch(self, reader: ReplayReader):
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
        reader = reader_of(settings, keep_frames=("twin",))
        read_all(reader)
        assert reader.stats()["open_episodes"] == 0
        by_name = {episode.name: episode for episode in reader.episodes("twin")}
        assert by_name["dropped"].outcome is Outcome.RUNNING
        assert len(by_name["dropped"].action) == 16

    def test_many_slots_side_by_side_are_not_mistaken_for_dropped_ones(self, settings, rng):
        episodes = [cut(make_segment(rng, steps=80, episode=f"slot{i}")) for i in range(8)]
        send(settings, [segment for turn in zip(*episodes, strict=True) for segment in turn])
        reader = reader_of(settings, keep_frames=("twin",))
        read_all(reader)
        assert reader.stats()["cut_short"] == 0
        assert [len(episode.action) for episode in reader.episodes("twin")] == [80] * 8

    def test_a_missing_middle_splits_an_episode(self, settings, rng):
        first, _, last = cut(make_segment(rng, steps=40))
        send(settings, [first, last])
        reader = reader_of(settings, keep_frames=("twin",))
        read_all(reader)
        parts = reader.episodes("twin")
        assert [len(part.action) for part in parts] == [16, 8]
        assert [part.outcome for part in parts] == [Outcome.RUNNING, Outcome.SUCCESS]

    def test_too_many_waiting_bytes_close_the_oldest(self, settings, rng):
        send(settings, [make_segment(rng, episode=f"e{i}", outcome=Outcome.RUNNING) for i in range(6)])
        reader = reader_of(settings, waiting_bytes=30_000)
        read_all(reader)
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
        reader = reader_of(settings, backbone_id="new", embed=self.brightness, keep_frames=("twin",))
        read_all(reader)
        assert reader.counts() == {"twin": 20}
        assert reader.episodes("twin")[0].embedding is None

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


def test_kept_episodes_stay_within_their_bytes(settings, rng):
    send(settings, [make_segment(rng, episode=f"e{i}") for i in range(10)])
    one = 5 * 2 * 16 * 16 * 3
    reader = reader_of(settings, keep_frames=("twin",), episode_bytes=3 * one)
    read_all(reader)
    assert [episode.name for episode in reader.episodes("twin")] == ["e7", "e8", "e9"]
    assert reader.stats()["forgotten"] == 7
    assert reader.counts() == {"twin": 40}


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
        reader_of(settings, buffers=("attic",), capacity={})
    with pytest.raises(InputError, match="not followed"):
        reader_of(settings, capacity={"real": 100})
    with pytest.raises(InputError, match=r"gamma=1\.5"):
        reader_of(settings, gamma=1.5)
    with pytest.raises(InputError, match="n_step=0"):
        reader_of(settings, n_step=0)
    with pytest.raises(InputError, match="capacity of 'twin'=3"):
        reader_of(settings, capacity={"twin": 3})
    with pytest.raises(InputError, match="nothing to sample in buffer 'twin'"):
        reader_of(settings).sample(rng, {"twin": 4})
    with pytest.raises(InputError, match="keep_frames"):
        reader_of(settings).episodes("twin")
    with writer_of(settings) as writer:
        with pytest.raises(InputError, match="'attic'"):
            writer.add(make_segment(rng), ("attic",))
        with pytest.raises(InputError, match="name the buffers"):
            writer.add(make_segment(rng), ())
