"""Tests batches with images against the episodes: windows, padding marks, from memory and from the server."""

import resource
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from image_samples import with_frames
from replay_samples import SCHEMA, START, cut, make_segment, names_in, read_all, reader_of, send, wait_until

from protos.codec import read_prefix
from protos.episode import Segment
from protos.errors import InputError, Unreachable
from protos.problems import problem_of
from protos.schema import Outcome, Source
from services.replay import EmbeddedServer, ReplayReader, ReplaySettings, ReplayWriter, delete_buffer
from services.replay.read.index import SOURCES
from services.replay.read.prefetch import Prefetcher
from services.replay.read.sampling import Cells, Priority

names = count()
IMAGES = ("side", "wrist")
ROW_BYTES = 2 * 16 * 16 * 3


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as server:
        yield server.url


def settings_at(url: str, **options) -> ReplaySettings:
    return ReplaySettings(urls=(url,), prefix=f"test{next(names)}", **options)


@pytest.fixture
def settings(url) -> ReplaySettings:
    return settings_at(url)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def check(batch, episodes: list[Segment], *, window: int, n: int, oldest_row: int = 0) -> None:
    """Every row's images, as built step by step from its episode; `oldest_row` counts from the first one written."""
    where = {each.action[t, 0].item(): (each, t) for each in episodes for t in range(each.steps)}
    first_row = dict(zip([id(e) for e in episodes], np.cumsum([0, *(e.steps + 1 for e in episodes)]), strict=False))
    for i in range(len(batch)):
        episode, t = where[batch.action[i, 0].item()]
        first = max(0, oldest_row - first_row[id(episode)])  # observations before it have left the ring
        shown = [max(t - back, first) for back in reversed(range(window))]
        ahead = min(n, episode.steps - t)
        later = [t + ahead - back for back in reversed(range(window))]
        assert batch.pad[i].tolist() == [t - back < first for back in reversed(range(window))]
        for camera in IMAGES:
            if getattr(batch, camera) is not None:
                frames = getattr(episode.observation, camera)
                np.testing.assert_array_equal(getattr(batch, camera)[i], frames[shown])
                np.testing.assert_array_equal(getattr(batch, f"next_{camera}")[i], frames[later])
        proprio = episode.observation.proprio
        np.testing.assert_array_equal(batch.proprio[i], proprio[shown if window > 1 else t])
        np.testing.assert_array_equal(batch.next_proprio[i], proprio[later if window > 1 else t + ahead])


def image_reader(settings: ReplaySettings, **options) -> ReplayReader:
    return read_all(reader_of(settings, **({"fields": IMAGES, "window": 2} | options)))


@given(
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    pieces=st.integers(1, 16),
    window=st.integers(1, 2),
    n=st.integers(1, 4),
    rows_in_memory=st.sampled_from([0, 20, 10_000]),
    codec=st.sampled_from(["zstd", "raw"]),
)
@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_image_reader_drawn_rows_are_those_that_were_written(
    url, seed, lengths, pieces, window, n, rows_in_memory, codec
):
    rng = np.random.default_rng(seed)
    settings = settings_at(url)
    episodes = [make_segment(rng, steps=steps, episode=f"e{i}") for i, steps in enumerate(lengths)]
    send(settings, [part for each in episodes for part in cut(each, iter(lambda: pieces, None))], codec=codec)
    memory = rows_in_memory * ROW_BYTES
    reader = image_reader(settings, n_step=n, window=window, image_memory_bytes=memory)
    check(reader.sample(rng, {"twin": 150}), episodes, window=window, n=n)
    reader.close()


@pytest.mark.parametrize("rows_in_memory", [0, 10_000])
def test_a_window_ends_where_the_ring_does(settings, rng, rows_in_memory):
    episodes = [make_segment(rng, steps=7, episode=f"e{i}") for i in range(12)]
    send(settings, episodes)
    reader = image_reader(settings, capacity={"twin": 50}, image_memory_bytes=rows_in_memory * ROW_BYTES)
    batch = reader.sample(rng, {"twin": 500})
    check(batch, episodes, window=2, n=3, oldest_row=12 * 8 - 50)
    assert len(np.unique(batch.action[:, 0])) == reader.counts()["twin"]
    reader.close()


def test_an_episode_longer_than_the_ring_keeps_its_end(settings, rng):
    episode = make_segment(rng, steps=100)
    send(settings, cut(episode))
    reader = image_reader(settings, capacity={"twin": 30}, image_memory_bytes=1 << 20)
    batch = reader.sample(rng, {"twin": 300})
    check(batch, [episode], window=2, n=3, oldest_row=101 - 30)
    assert reader.counts() == {"twin": 29}
    reader.close()


def test_only_the_fields_asked_for_are_there(settings, rng):
    send(settings, [make_segment(rng, embedding_dim=0)], incarnation="a")
    send(settings, [make_segment(rng, episode="other", backbone_id="other")], incarnation="b")

    def never(episode):
        raise AssertionError("no readout is needed")

    reader = image_reader(settings, fields=("wrist",), embed=never, backbone_id="ours")
    batch = reader.sample(rng, {"twin": 10})
    assert reader.counts() == {"twin": 8}
    assert batch.embedding is batch.next_embedding is batch.side is batch.next_side is None
    assert batch.wrist.shape == batch.next_wrist.shape == (10, 2, 16, 16, 3)
    reader.close()
    both = image_reader(settings, fields=("embedding", *IMAGES), window=1).sample(rng, {"twin": 10})
    assert both.side.shape == (10, 1, 16, 16, 3)
    assert both.embedding.shape == (10, 3)
    plain = read_all(reader_of(settings)).sample(rng, {"twin": 10})
    assert plain.side is plain.next_wrist is None
    assert not plain.pad.any()


@pytest.mark.parametrize("strategy", [Cells(), Priority()])
def test_rows_that_left_the_server_are_drawn_again_and_then_no_more(settings, rng, strategy):
    segments = [make_segment(rng, episode=f"e{i}") for i in range(40)]
    with reader_of(
        settings, fields=IMAGES, window=2, image_memory_bytes=0, sampling={"twin": strategy}, capacity={"twin": 1000}
    ) as reader:
        send(settings, segments[:20], incarnation="one")
        wait_until(lambda: reader.counts()["twin"] == 80)
        send(replace(settings, capacity_bytes=80_000), segments[20:], incarnation="two")  # about ten segments
        wait_until(lambda: reader.received()["twin"] == 160)
        batch = reader.sample(rng, {"twin": 200})
        check(batch, segments, window=2, n=3)
        assert (batch.weight <= 1).all()
        assert reader.stats()["overwritten"] > 0

        def none_is_gone() -> bool:
            before = reader.stats()["overwritten"]
            check(reader.sample(rng, {"twin": 500}), segments, window=2, n=3)
            return reader.stats()["overwritten"] == before

        wait_until(none_is_gone)
        assert 0 < reader.counts()["twin"] < 80


def test_images_in_memory_or_a_file_outlive_the_buffer_and_others_are_reported(settings, rng, tmp_path):
    segments = [make_segment(rng, episode=f"e{i}") for i in range(5)]
    send(settings, segments)
    mirrored, direct = (image_reader(settings, image_memory_bytes=size) for size in (1 << 20, 0))
    filed = image_reader(settings, image_memory_bytes=1 << 20, image_folder=tmp_path)
    assert delete_buffer(settings, "twin") == 5
    read_all(mirrored)
    for reader in (mirrored, filed):
        check(reader.sample(rng, {"twin": 100}), segments, window=2, n=3)
    with pytest.raises(Unreachable, match="left the server"):
        direct.sample(rng, {"twin": 10})
    assert filed.stats()["images_memory_bytes"] == direct.stats()["images_memory_bytes"]
    assert list(tmp_path.iterdir()) == [], "a file without a name, so a killed learner leaves nothing"
    for reader in (mirrored, filed, direct):
        reader.close()


@pytest.mark.parametrize("fields", [("embedding",), ("embedding", *IMAGES)])
def test_a_batch_is_filled_again(settings, rng, fields):
    segments = [make_segment(rng, episode=f"e{i}") for i in range(5)]
    send(settings, segments)
    reader = image_reader(settings, fields=fields, image_memory_bytes=1 << 20)
    first = reader.sample(rng, {"twin": 50})
    action = first.action.copy()
    again = reader.sample(rng, {"twin": 50}, out=first)
    assert again is first
    assert not np.array_equal(action, first.action)
    check(again, segments, window=2, n=3)
    other = reader.sample(rng, {"twin": 60}, out=first)
    assert len(other) == 60
    reader.close()


def test_batches_drawn_ahead_are_right_while_others_are_written(settings, rng):
    segments = [make_segment(rng, episode=f"e{i}") for i in range(120)]
    with reader_of(settings, fields=IMAGES, window=2, capacity={"twin": 200}, image_memory_bytes=1 << 20) as reader:
        send(settings, segments[:20], incarnation="one")
        wait_until(lambda: reader.counts()["twin"] == 80)
        ahead = Prefetcher(lambda old: reader.sample(rng, {"twin": 100}, out=old))
        with ReplayWriter(settings, SCHEMA, actor="twin/0", incarnation="two", spool=None) as writer:
            for segment in segments[20:]:
                writer.add(segment, ("twin",))
                batch = ahead.next(20.0)
                kept = batch.side[:, 0].copy(), batch.action.copy()
                check_images(kept, segments)
        ahead.close()


def check_images(kept: tuple[np.ndarray, np.ndarray], segments: list[Segment]) -> None:
    """Each image is the one before its action, or the episode's first."""
    where = {each.action[t, 0].item(): (each, t) for each in segments for t in range(each.steps)}
    for image, action in zip(*kept, strict=True):
        segment, t = where[action[0].item()]
        assert any(np.array_equal(image, segment.observation.side[k]) for k in {max(t - 1, 0), t})


def test_tags(settings, rng):
    segments = [
        replace(
            make_segment(rng, episode=f"e{i}", outcome=outcome, versions=(i, 2 * i)),
            configuration=replace(START, cell=i - 1),
            source=source,
        )
        for i, (outcome, source) in enumerate(
            [(Outcome.SUCCESS, Source.TWIN), (Outcome.FAILURE, Source.REAL), (Outcome.TIMEOUT, Source.REAL)]
        )
    ]
    for i, segment in enumerate(segments):
        send(settings, [segment], actor=f"arm{i}")
    reader = read_all(reader_of(settings))
    batch = reader.sample(rng, {"twin": 200})
    assert reader.actors() == ["arm0", "arm1", "arm2"]
    for i, segment in enumerate(segments):
        rows = batch.actor == i
        assert rows.any()
        assert (batch.cell[rows] == segment.configuration.cell).all()
        assert {SOURCES[code] for code in batch.source[rows].tolist()} == {segment.source}
        assert (batch.success[rows] == (segment.outcome is Outcome.SUCCESS)).all()
        assert (batch.version[rows] == segment.policy_versions[0]).all()
        assert (batch.newest_version[rows] == segment.policy_versions[1]).all()
        np.testing.assert_array_equal(np.unique(batch.action[rows, 0]), np.unique(segment.action[:, 0]))
    assert (batch.weight == 1).all()


def test_readouts_of_another_size_are_left_out_by_name(settings, rng, caplog):
    send(settings, [make_segment(rng, episode="three")], actor="three")
    send(settings, [make_segment(rng, episode="four", embedding_dim=4)], actor="four")
    reader = read_all(reader_of(settings))
    assert reader.counts() == {"twin": 4}
    assert reader.stats()["wrong_schema"] == 1
    assert "readouts are of another size" in caplog.text


def test_an_episode_with_an_image_that_does_not_decode_is_left_out(settings, rng, caplog):
    send(settings, [make_segment(rng, episode=f"e{i}", steps=2) for i in range(3)], codec="jpeg")
    with redis.Redis.from_url(settings.urls[0]) as client:
        slot = f"{{{settings.prefix}:twin}}:segment:2"
        blob = client.get(slot)
        client.set(slot, with_frames(blob, bytes(read_prefix(blob).frames)))
    reader = read_all(reader_of(settings, fields=("side",)))
    assert reader.counts() == {"twin": 4}
    assert reader.stats()["corrupt"] == 1
    assert "dropped an episode" in caplog.text
    reader.close()
    assert names_in(settings) == ["e0", "e2"]
    assert "left out an episode" in caplog.text


def test_mistakes_are_named(settings):
    with pytest.raises(InputError, match=r"window=3: 1 or 2"):
        reader_of(settings, window=3)
    with pytest.raises(InputError, match=r"fields=\['depth'\]: choose from embedding, side, wrist"):
        reader_of(settings, fields=("depth",))
    with pytest.raises(InputError, match=r"image_memory_bytes=-1: 0 or more"):
        reader_of(settings, image_memory_bytes=-1)


def test_a_folder_without_room_for_the_images_is_named_at_once(settings, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            reader_of(settings, fields=IMAGES, capacity={"twin": 5000}, image_folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "making room for decoded images" in problem_of(caught.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        reader_of(settings, fields=IMAGES, image_folder=tmp_path / "nowhere")


def test_the_memory_plan_is_logged_once(settings, caplog):
    caplog.set_level("INFO")
    fields = ("embedding", *IMAGES)
    with reader_of(settings, fields=fields, capacity={"twin": 20_000}, image_memory_bytes=10_000 * ROW_BYTES):
        pass
    (line,) = [record.getMessage() for record in caplog.records if "replay memory" in record.getMessage()]
    assert "twin: 20000 rows" in line
    assert "those of 10000 rows read from the server when drawn" in line
    assert SCHEMA.hash not in line
