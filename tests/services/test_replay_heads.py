"""Tests that images are fetched on demand: of a segment whose images are not wanted, only the head is read."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import redis
from replay_samples import SCHEMA, cut, make_segment, names_in, read_all, reader_of, send, wait_until

from protos.codec import decode_segment, encode_segment, read_prefix
from protos.episode import Segment
from protos.images import decode_images
from protos.schema import Outcome
from services.replay import EmbeddedServer, Keys, ReplaySettings, connect
from services.replay.read.log import Assembler, ImageDemand, StoredSegment, Tail

names = count()
HEADS = ImageDemand(always=False)
EVERYTHING = ImageDemand(always=True)
RECOMPUTED = ImageDemand(always=False, recompute=True, backbone_id="new")
TALK_BYTES = 1500
"""Bytes of an index entry and the commands around it, generously."""


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as server:
        yield server.url


@pytest.fixture
def settings(url: str) -> ReplaySettings:
    return ReplaySettings(urls=(url,), prefix=f"heads{next(names)}")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def client(url) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url) as client:
        yield client


class Between:
    """A client before whose second pipeline something happens."""

    def __init__(self, settings: ReplaySettings, happen: Callable[[], object]) -> None:
        self._client, self._happen, self._pipelines = connect(settings), happen, 0
        self.execute_command = self._client.execute_command

    def pipeline(self, *, transaction: bool):
        assert not transaction
        self._pipelines += 1
        if self._pipelines == 2:
            self._happen()
        return self._client.pipeline(transaction=False)


def keys(settings: ReplaySettings) -> Keys:
    return Keys(settings.prefix, "twin")


def slot(settings: ReplaySettings, number: int) -> str:
    return f"{keys(settings).slots}{number}"


def tail_of(settings: ReplaySettings, demand: ImageDemand, happen: Callable[[], object] = lambda: None) -> Tail:
    return Tail(Between(settings, happen), keys(settings), SCHEMA, demand)


def segments_of(tail: Tail) -> list[StoredSegment]:
    """Reads what the next entries bring."""
    found = [tail.accept(arrival) for arrival in tail.fetch()]
    return [segment for segment in found if segment is not None]


def sent(client: redis.Redis, reading: Callable[[], object]) -> int:
    """Bytes that the server answers meanwhile."""
    before = client.info("stats")["total_net_output_bytes"]
    reading()
    return client.info("stats")["total_net_output_bytes"] - before


def sizes(client: redis.Redis, settings: ReplaySettings) -> tuple[int, int]:
    """Bytes of all heads and of all frames."""
    count = client.xlen(keys(settings).index)
    prefixes = [read_prefix(client.get(slot(settings, number))) for number in range(1, count + 1)]
    return sum(prefix.head for prefix in prefixes), sum(prefix.frames for prefix in prefixes)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"backbone_id": "same", "embed": lambda episode: pytest.fail("there was nothing to compute")},
        {"fields": ("embedding", "side", "wrist"), "image_memory_bytes": 0},
    ],
)
def test_numbers_alone_cost_heads_alone(settings, client, rng, options):
    segments = [make_segment(rng, steps=16, episode=f"e{i}", backbone_id="same") for i in range(20)]
    send(settings, segments, codec="raw")
    heads, frames = sizes(client, settings)
    reader = reader_of(settings, **options)
    read = sent(client, lambda: read_all(reader))
    assert reader.counts() == {"twin": 320}
    assert heads <= read <= heads + 20 * TALK_BYTES < frames / 5
    reader.close()


def test_images_that_are_kept_come_at_once(settings, client, rng):
    send(settings, [make_segment(rng, steps=16, episode=f"e{i}") for i in range(5)], codec="raw")
    reader = reader_of(settings, fields=("side",))
    assert sent(client, lambda: read_all(reader)) >= sum(sizes(client, settings))
    assert reader.counts() == {"twin": 80}
    reader.close()
    assert sent(client, lambda: names_in(settings)) >= sum(sizes(client, settings))


def brightness(episode) -> np.ndarray:
    return episode.observation.side.mean(axis=(1, 2, 3), dtype=np.float64)[:, None].astype(np.float32)


def assert_bright(reader, rng, whole: Segment) -> None:
    embedding = reader.sample(rng, {"twin": 200}).embedding
    assert np.isin(embedding, brightness(whole)[:-1]).all()


def test_frames_come_after_the_head_that_calls_for_them(settings, client, rng):
    whole = make_segment(rng, steps=40, backbone_id="old")
    send(settings, cut(whole), codec="raw")
    frames = sizes(client, settings)[1]
    own = [make_segment(rng, steps=16, backbone_id="new", embedding_dim=1, episode=f"own{i}") for i in range(9)]
    send(settings, own, codec="raw", incarnation="own")
    heads, more = sizes(client, settings)
    reader = reader_of(settings, backbone_id="new", embed=brightness, capacity={"twin": 41})
    read = sent(client, lambda: read_all(reader))
    assert heads + frames <= read <= heads + frames + 12 * TALK_BYTES < heads + more
    send(settings, cut(replace(whole, episode="again")), incarnation="last")
    read_all(reader)
    assert_bright(reader, rng, whole)


def mixed(rng: np.random.Generator) -> tuple[Segment, list[Segment]]:
    """An episode, and its segments, of which only the first has the right readouts."""
    whole = make_segment(rng, steps=20, backbone_id="new")
    first, second = cut(whole)
    return whole, [first, replace(second, backbone_id="", embedding=None)]


def test_an_episode_that_changes_on_the_way_gets_the_frames_that_it_did_not_need_at_first(settings, rng):
    whole, segments = mixed(rng)
    send(settings, segments)
    reader = read_all(reader_of(settings, backbone_id="new", embed=brightness))
    assert reader.counts() == {"twin": 20}
    assert_bright(reader, rng, whole)


@pytest.mark.parametrize("damage", ["gone", "corrupt"])
def test_frames_that_are_no_longer_there_then_leave_the_episode_out(settings, client, rng, damage):
    _, segments = mixed(rng)
    send(settings, segments[:1], incarnation="life")
    reader = reader_of(settings, backbone_id="new", embed=brightness)
    read_all(reader)
    if damage == "gone":
        client.delete(slot(settings, 1))
    else:
        client.setrange(slot(settings, 1), client.strlen(slot(settings, 1)) - 4, b"\xff\x00\xff")
    with_name = encode_segment(segments[1], SCHEMA, actor="twin/0", incarnation="life", seq=1, codec="raw")
    follow(client, settings, with_name)
    read_all(reader)
    stats = reader.stats()
    assert (reader.counts(), stats["unembedded"]) == ({"twin": 0}, 1)
    assert stats["corrupt"] == (damage == "corrupt")


def follow(client: redis.Redis, settings: ReplaySettings, blob: bytes) -> None:
    """Puts a second segment into the ring as the same life of the writer would."""
    head = read_prefix(blob).head
    client.set(slot(settings, 2), blob)
    entry = {"ring": 2, "seq": 1, "head": head, "bytes": len(blob), "transitions": 20}
    client.xadd(keys(settings).index, entry | {"actor": "twin/0", "incarnation": "life"})


def test_a_slot_that_is_read_twice_gives_the_whole_segment(settings, rng):
    segment = make_segment(rng, backbone_id="old")
    send(settings, [segment], codec="raw")
    (stored,) = segments_of(tail_of(settings, RECOMPUTED))
    side, wrist = decode_images(stored.images, "raw", (), 5, SCHEMA)
    np.testing.assert_array_equal(side, segment.observation.side)
    np.testing.assert_array_equal(wrist, segment.observation.wrist)
    assert stored.held_bytes == stored.prefix.total


@pytest.mark.parametrize("what", ["gone", "another", "damaged"])
def test_a_slot_that_changes_between_two_looks(settings, client, rng, what):
    send(settings, [make_segment(rng, backbone_id="old"), make_segment(rng, backbone_id="old", episode="e1")])
    key = slot(settings, 1)
    happen = {
        "gone": lambda: client.delete(key),
        "another": lambda: client.set(key, client.get(slot(settings, 2))),
        "damaged": lambda: client.setrange(key, client.strlen(key) - 4, b"\xff\x00\xff"),
    }[what]
    tail = tail_of(settings, RECOMPUTED, happen)
    (stored,) = segments_of(tail)
    assert (stored.slot, stored.images is None) == (2, False)
    assert tail.counts["overwritten" if what != "damaged" else "corrupt"] == 1
    assert tail.counts["segments"] == 1


def test_damage_is_noticed_in_the_part_that_is_read(settings, client, rng):
    send(settings, [make_segment(rng, episode=f"e{i}") for i in range(3)])
    client.setrange(slot(settings, 1), 200, b"\xff\x00\xff")
    client.setrange(slot(settings, 2), client.strlen(slot(settings, 2)) - 4, b"\xff\x00\xff")
    heads, everything = tail_of(settings, HEADS), tail_of(settings, EVERYTHING)
    assert [segment.slot for segment in segments_of(heads)] == [2, 3]
    assert [segment.slot for segment in segments_of(everything)] == [3]
    assert (heads.counts["corrupt"], everything.counts["corrupt"]) == (1, 2)


@pytest.mark.parametrize("dims", [(4, 400), (400, 4)])
@pytest.mark.parametrize("demand", [HEADS, EVERYTHING, RECOMPUTED])
def test_another_segment_with_a_larger_or_smaller_head_is_known_for_what_it_is(settings, client, rng, dims, demand):
    send(settings, [make_segment(rng, embedding_dim=dim, episode=f"e{dim}") for dim in dims])
    client.set(slot(settings, 1), client.get(slot(settings, 2)))
    tail = tail_of(settings, demand)
    (stored,) = segments_of(tail)
    assert stored.slot == 2
    assert (tail.counts["overwritten"], tail.counts["corrupt"]) == (1, 0)


@pytest.mark.parametrize("head", [0, -1, 27, 1 << 40, "x"])
def test_an_entry_with_an_impossible_head_is_dropped(settings, client, rng, head):
    send(settings, [make_segment(rng)])
    client.xadd(
        keys(settings).index,
        {"ring": 1, "seq": 1, "head": head, "bytes": 1000, "transitions": 9, "actor": "a", "incarnation": "i"},
    )
    tail = tail_of(settings, HEADS)
    assert len(segments_of(tail)) == 1
    assert tail.counts["corrupt"] == 1


@pytest.mark.parametrize("demand", [HEADS, EVERYTHING])
def test_what_waits_is_counted_as_far_as_it_is_here(settings, client, rng, demand):
    send(settings, [make_segment(rng, outcome=Outcome.RUNNING)])
    assembler = Assembler("twin", 0, max_waiting_bytes=1 << 30)
    (stored,) = segments_of(tail_of(settings, demand))
    assert assembler.add(stored) == []
    head, frames = sizes(client, settings)
    assert assembler.waiting_bytes == head + (frames if demand.always else 0)


def test_images_read_from_the_server_are_those_of_the_episode(settings, client, rng):
    segment = make_segment(rng, steps=16)
    send(settings, [segment], codec="raw")
    decoded = decode_segment(client.get(slot(settings, 1)), SCHEMA)[1].observation.side
    with reader_of(settings, fields=("side",), image_memory_bytes=0, n_step=1) as reader:
        wait_until(lambda: reader.counts()["twin"] == 16)
        batch = reader.sample(rng, {"twin": 50})
    where = (batch.proprio[:, None] == segment.observation.proprio[None, :-1]).all(axis=-1).argmax(axis=1)
    np.testing.assert_array_equal(batch.side[:, 0], decoded[where])
