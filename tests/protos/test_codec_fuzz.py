"""These tests decode arbitrary bytes: to a segment or one clear error, without allocating more than a segment."""

import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protos.codec import (
    PREFIX_BYTES,
    check_blob,
    decode_head,
    decode_segment,
    encode_segment,
    encode_unnamed,
    has_human_step,
    pack_prefix,
    read_header,
    read_prefix,
)
from protos.episode import Segment
from protos.errors import CorruptData, InputError, SchemaMismatch
from protos.replay_pb2 import SegmentHeader
from protos.schema import Configuration, Observation, Outcome, Schema, Source

SCHEMA = Schema(side_px=16, wrist_px=16)
RNG = np.random.default_rng(0)
SEGMENT = Segment(
    task="pick_and_place",
    scene="bench",
    instruction="Put the cube on the disc.",
    configuration=Configuration(region="A", cell=7, poses={"cube": (-0.55, 0.1, 0.02, 1.0)}),
    episode="twin-0/life/12",
    first_step=0,
    outcome=Outcome.RUNNING,
    source=Source.TWIN,
    policy_versions=(1, 2),
    backbone_id="abc",
    observation=Observation(
        side=RNG.integers(0, 256, (4, 16, 16, 3), np.uint8),
        wrist=RNG.integers(0, 256, (4, 16, 16, 3), np.uint8),
        proprio=RNG.normal(size=(4, 25)).astype(np.float32),
    ),
    action=RNG.normal(size=(3, 7)).astype(np.float32),
    reward=np.zeros(3, np.float32),
    human=np.array([False, True, False]),
    embedding=RNG.normal(size=(4, 5)).astype(np.float32),
)
BLOBS = {
    codec: encode_segment(SEGMENT, SCHEMA, actor="twin-0", incarnation="life", seq=3, codec=codec)
    for codec in ("jpeg", "zstd", "raw")
}
codecs = st.sampled_from(sorted(BLOBS))
edits = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.integers(0, 1 << 16), st.integers(1, 255)),
        st.tuples(st.just("cut"), st.integers(0, 1 << 16), st.integers(1, 300)),
        st.tuples(st.just("insert"), st.integers(0, 1 << 16), st.binary(min_size=1, max_size=40)),
    ),
    min_size=1,
    max_size=4,
)


def edited(data: bytes, changes: list[tuple]) -> bytes:
    for kind, where, what in changes:
        at = where % (len(data) + 1)
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ what]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[at + what :]
        elif kind == "insert":
            data = data[:at] + what + data[at:]
    return data


def parts(blob: bytes) -> list[bytes]:
    """Returns header, numbers and frames."""
    prefix = read_prefix(blob)
    ends = PREFIX_BYTES + prefix.header, prefix.head
    return [blob[PREFIX_BYTES : ends[0]], blob[ends[0] : ends[1]], blob[ends[1] :]]


def sealed(pieces: list[bytes]) -> bytes:
    """Returns a blob with right sizes and checksums, as a hostile writer would send."""
    header, numbers, frames = pieces
    crc = zlib.crc32(frames)
    return b"".join((pack_prefix(header, numbers, frames=len(frames), frames_crc=crc), *pieces))


def decode_all(data: bytes) -> None:
    """Calls every decoder and bounds the memory it takes."""
    tracemalloc.start()
    try:
        for decode in (
            read_header,
            lambda blob: decode_head(blob, SCHEMA),
            check_blob,
            lambda blob: decode_segment(blob, SCHEMA),
        ):
            try:
                decode(data)
            except (CorruptData, SchemaMismatch) as error:
                assert "\n" not in str(error)
                assert len(str(error)) < 1000
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@given(codecs, edits)
@settings(max_examples=120, deadline=None)
def test_damage_on_the_way(codec, changes):
    data = edited(BLOBS[codec], changes)
    if data != BLOBS[codec]:
        with pytest.raises((CorruptData, SchemaMismatch)):
            decode_segment(data, SCHEMA)
    decode_all(data)


@given(codecs, st.integers(0, 2), edits)
@settings(max_examples=250, deadline=None)
def test_a_hostile_part_with_a_right_checksum(codec, part, changes):
    pieces = parts(BLOBS[codec])
    pieces[part] = edited(pieces[part], changes)
    decode_all(sealed(pieces))


@given(st.binary(max_size=300), st.binary(max_size=100), st.binary(max_size=100))
@example(b"", b"", b"")
@settings(max_examples=150, deadline=None)
def test_arbitrary_parts_with_a_right_checksum(header, numbers, frames):
    decode_all(sealed([header, numbers, frames]))


@given(
    steps=st.integers(0, 2**32 - 1),
    dim=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(0, 2**32 - 1), max_size=12),
    codec=st.sampled_from(["jpeg", "zstd", "raw", "pickle", ""]),
)
@example(steps=16, dim=2**32 - 1, sizes=[2**32 - 1] * 8, codec="jpeg")
@example(steps=3, dim=5, sizes=[2**32 - 1] * 8, codec="jpeg")
@settings(max_examples=120, deadline=None)
def test_headers_that_promise_the_moon(steps, dim, sizes, codec):
    pieces = parts(BLOBS["jpeg"])
    header = SegmentHeader.FromString(pieces[0])
    header.steps, header.embedding_dim, header.codec = steps, dim, codec
    del header.image_bytes[:]
    header.image_bytes.extend(sizes)
    decode_all(sealed([header.SerializeToString(), *pieces[1:]]))


@given(frames=st.binary(min_size=1, max_size=200), codec=codecs)
@settings(max_examples=100, deadline=None)
def test_images_that_do_not_decode(frames, codec):
    pieces = parts(BLOBS[codec])
    header = SegmentHeader.FromString(pieces[0])
    if codec == "jpeg":
        del header.image_bytes[:]
        header.image_bytes.extend([len(frames), *[0] * 7])
    decode_all(sealed([header.SerializeToString(), pieces[1], frames]))


def test_a_segment_is_named_after_it_is_encoded():
    encoded = encode_unnamed(SEGMENT, SCHEMA, codec="zstd")
    header, blob = encoded.named(actor="twin-0", incarnation="life", seq=3)
    assert blob == BLOBS["zstd"]
    assert (header.actor, header.incarnation, header.seq) == ("twin-0", "life", 3)
    again, _ = encoded.named(actor="twin-1", incarnation="life", seq=4)
    assert (encoded.header.actor, header.seq, again.actor) == ("", 3, "twin-1")
    with pytest.raises(InputError, match="actor"):
        encoded.named(actor="a b", incarnation="life", seq=0)
    long = replace(SEGMENT, instruction="x" * (64 << 10))
    with pytest.raises(InputError, match="texts and poses fill"):
        encode_unnamed(long, SCHEMA, codec="raw").named(actor="a", incarnation="i", seq=0)


@pytest.mark.parametrize("human", [[False] * 3, [True, False, False], [False, False, True]])
@pytest.mark.parametrize("embedded", [False, True])
def test_a_human_step_is_found_in_the_bytes(human, embedded):
    segment = replace(SEGMENT, human=np.array(human), embedding=SEGMENT.embedding if embedded else None)
    blob = encode_segment(segment, SCHEMA, actor="a", incarnation="i", seq=0, codec="raw")
    assert has_human_step(read_header(blob), blob) == any(human)
    assert has_human_step(read_header(blob), blob[: read_prefix(blob).head]) == any(human)
