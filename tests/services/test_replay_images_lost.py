"""Tests images that have left the server, do not decode, or cannot be reached: reported, never mixed up."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from image_samples import KEYS, SCHEMA, Shard, Sink, damaged, encode, fill, head_of, make_episode, sink_maker
from replay_peers import Line

from protos.errors import CorruptData, Unreachable
from protos.images import CODECS
from protos.schema import Schema
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter, connect
from services.replay.read.images import ImageStore
from services.replay.read.log import ImageDemand, Tail
from services.replay.read.wire import SlotReader

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


@pytest.mark.parametrize("codec", CODECS)
def test_what_has_left_the_server_is_told(sink_of, shard, rng, codec):
    sink = sink_of(shard, capacity=CAPACITY)
    whole = make_episode(rng, 48)
    segments = shard.put_episode(whole, codec)
    rows = sink.add(segments, whole)
    shard.forget(segments[0].slot)
    shard.put(encode(make_episode(rng, 16), codec), segments[1].slot)
    windows = rows[:-1, None] + np.array([0, 1])
    there, (found,) = sink.take(windows)
    np.testing.assert_array_equal(there, np.arange(48) >= 32)
    sink.assert_true(windows[32:], {camera: images[32:] for camera, images in found.items()}, codec)
    assert sink.store.stats()["gone"] > 0


@pytest.mark.parametrize("codec", CODECS)
def test_a_slot_that_a_server_gave_to_two_segments_has_the_images_of_the_later_one(sink_of, shard, rng, codec):
    sink = sink_of(shard, capacity=CAPACITY)
    rows = []
    for slot in (1, 2, 2, 3):
        whole = make_episode(rng, 9)
        rows.append(sink.add([shard.put(encode(whole, codec), slot)], whole))
    everything = np.concatenate(rows)[:, None]
    there, (found,) = sink.take(everything)
    np.testing.assert_array_equal(there, ~np.isin(everything[:, 0], rows[1]))
    sink.assert_true(everything[there], {camera: images[there] for camera, images in found.items()}, codec)


def test_the_ring_of_a_real_writer_turns(sink_of, server, shard, rng):
    settings = ReplaySettings(urls=(server.url,), capacity_bytes=150_000)
    client = connect(settings)
    tail = Tail(client, KEYS, SCHEMA, ImageDemand(always=True))
    direct, mirrored = (sink_of(shard, capacity=CAPACITY, memory_rows=rows) for rows in (0, 10_000))
    with ReplayWriter(settings, SCHEMA, actor="twin/0", spool=None) as writer:
        for _ in range(10):
            whole = make_episode(rng, 5)
            writer.add(whole, ("twin",))
            assert writer.flush(20) == 0
            segments = [tail.accept(arrival) for arrival in tail.fetch()]
            direct.add([head_of(segment) for segment in segments], whole)
            mirrored.add(segments, whole)
    client.close()
    rows = np.arange(60)[:, None]
    there, (found,) = direct.take(rows)
    kept = int(np.count_nonzero(there))
    assert 0 < kept < 60
    np.testing.assert_array_equal(there, np.arange(60) >= 60 - kept)
    direct.assert_true(rows[there], {camera: images[there] for camera, images in found.items()}, "jpeg")
    assert mirrored.take(rows)[0].all()


@pytest.mark.parametrize("memory_rows", [20, 1_000])
def test_a_file_that_is_no_image_is_refused_with_nothing_changed(sink_of, shard, rng, memory_rows):
    sink = sink_of(shard, capacity=CAPACITY, memory_rows=memory_rows)
    (rows,) = fill(sink, shard, rng, "jpeg", [30])
    whole = make_episode(rng, 10)
    blob = encode(whole, "jpeg")
    ends = np.cumsum(shard.put(blob).header.image_bytes)
    for bad in (damaged(blob, at=int(ends[3]), length=4), damaged(blob, at=int(ends[16]), length=4)):
        with pytest.raises(CorruptData, match="does not decode"):
            sink.add([shard.put(bad)], whole)
    there, (found,) = sink.take(rows[:, None])
    assert there.all()
    sink.assert_true(rows, found, "jpeg")


def test_an_image_that_breaks_off_is_refused_at_once_or_when_it_is_drawn(sink_of, shard, rng):
    whole = make_episode(rng, 10)
    blob = encode(whole, "jpeg")
    ends = np.cumsum(shard.put(blob).header.image_bytes)
    bad = damaged(blob, at=int(ends[3]) + 700, length=int(ends[4] - ends[3]) - 700)
    with pytest.raises(CorruptData, match="does not decode"):
        sink_of(shard, capacity=CAPACITY, memory_rows=100).add([shard.put(bad)], whole)
    for broken in (bad, damaged(blob, at=int(ends[3]), length=4)):
        sink = sink_of(shard, capacity=CAPACITY)
        rows = sink.add([head_of(shard.put(broken))], whole)
        assert not sink.take(rows[4:5, None])[0].any()
        assert sink.take(rows[5:6, None])[0].all()
        assert sink.store.stats()["corrupt"] == 1


def test_frames_of_another_size_are_refused(sink_of, shard, rng):
    sink = sink_of(shard, capacity=CAPACITY)
    nobody = SlotReader(ReplaySettings(urls=(shard.url,)), 0, KEYS)
    wider = Schema(side_px=64)
    other = ImageStore(wider, cameras=["side"], capacity=CAPACITY, memory_bytes=1 << 20, readers=[nobody])
    for codec in CODECS:
        whole = make_episode(rng, 4)
        segments = shard.put_episode(whole, codec)
        sink.add(segments, whole)
        with pytest.raises(CorruptData):
            other.stage(segments, shard=0)
    other.close()


@pytest.mark.parametrize("codec", CODECS)
def test_a_server_that_goes_away_in_the_middle_and_comes_back(sink_of, server, shard, rng, codec):
    with Line(server.socket, cut_after=30_000 if codec != "zstd" else 2_000) as line:
        sink = sink_of(shard, capacity=CAPACITY, urls=[line.url])
        (rows,) = fill(sink, shard, rng, codec, [60])
        with pytest.raises(Unreachable, match="closed the connection"):
            sink.take(rows[:, None])
        assert sink.store.unreadable() == {0}
        line.cut_after = None
        there, (found,) = sink.take(rows[:, None])
        assert there.all()
        sink.assert_true(rows, found, codec)
        assert sink.store.unreadable() == set()


def test_a_shard_that_is_down_takes_only_its_own_rows_away(sink_of, shard, rng, tmp_path):
    with EmbeddedServer(tmp_path / "other") as second:
        other = Shard(url=second.url)
        sink = sink_of(shard, other, capacity=CAPACITY)
        rows = []
        for number, each in enumerate((shard, other, shard, other)):
            whole = make_episode(rng, 20)
            rows.append(sink.add(each.put_episode(whole, "jpeg"), whole, shard=number % 2))
        everything = rng.permutation(np.concatenate(rows))[:, None]
        there, (found,) = sink.take(everything)
        assert there.all()
        sink.assert_true(everything, found, "jpeg")
        second.stop()
        with pytest.raises(Unreachable):
            sink.take(everything)
        assert sink.store.unreadable() == {1}
        assert sink.take(np.concatenate(rows[::2])[:, None])[0].all()
        second.start()
        assert sink.take(everything)[0].all()
