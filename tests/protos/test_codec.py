"""These tests encode segments and decode them; anything else is refused."""

import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.codec import decode_head, decode_segment, encode_segment, read_header
from protos.episode import Segment
from protos.errors import CorruptData, InputError, SchemaMismatch
from protos.images import CODECS
from protos.replay_pb2 import SegmentHeader
from protos.schema import Configuration, Observation, Outcome, Schema, Source

SCHEMA = Schema(side_px=32, wrist_px=16)
PREFIX = struct.Struct("<4sIIIIII")


def make(rng: np.random.Generator, *, steps: int = 5, dim: int = 4, **changes: object) -> Segment:
    segment = Segment(
        task="pick_and_place",
        scene="bench",
        instruction="Put the cube on the disc.",
        configuration=Configuration(region="A", cell=7, poses={"cube": (-0.55, 0.1, 0.02, 1.0)}),
        episode="twin-0/life/12",
        first_step=16,
        outcome=Outcome.TIMEOUT,
        source=Source.REAL,
        policy_versions=(-1, 9),
        backbone_id="abc" if dim else "",
        observation=Observation(
            side=rng.integers(0, 256, (steps + 1, 32, 32, 3), np.uint8),
            wrist=rng.integers(0, 256, (steps + 1, 16, 16, 3), np.uint8),
            proprio=rng.normal(size=(steps + 1, 25)).astype(np.float32),
        ),
        action=rng.normal(size=(steps, 7)).astype(np.float32),
        reward=rng.normal(size=steps).astype(np.float32),
        human=rng.random(steps) < 0.5,
        embedding=rng.normal(size=(steps + 1, dim)).astype(np.float32) if dim else None,
    )
    return replace(segment, **changes)


def encode(segment: Segment, *, codec: str = "zstd", seq: int = 3) -> bytes:
    return encode_segment(segment, SCHEMA, actor="twin-0", incarnation="life", seq=seq, codec=codec)


def forge(
    blob: bytes, *, header: SegmentHeader | None = None, numbers: bytes | None = None, frames: bytes | None = None
) -> bytes:
    """Returns a blob with other parts and right checksums, as a hostile or mistaken writer could send."""
    _, _, h, n, _, _, _ = PREFIX.unpack_from(blob)
    start = PREFIX.size
    parts = [
        blob[start : start + h] if header is None else header.SerializeToString(),
        blob[start + h : start + h + n] if numbers is None else numbers,
        blob[start + h + n :] if frames is None else frames,
    ]
    return sealed(*parts)


def sealed(header: bytes, numbers: bytes, frames: bytes) -> bytes:
    """Joins parts with right sizes and checksums, by the description of the layout."""
    sizes = len(header), len(numbers), len(frames)
    first = struct.pack("<4sIIIII", b"TWRL", 2, *sizes, zlib.crc32(frames))
    return first + struct.pack("<I", zlib.crc32(first + header + numbers)) + header + numbers + frames


def changed_header(blob: bytes, **changes: object) -> SegmentHeader:
    header = SegmentHeader()
    header.CopyFrom(read_header(blob))
    for name, value in changes.items():
        setattr(header, name, value)
    return header


@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 16),
    dim=st.sampled_from([0, 1, 96]),
    codec=st.sampled_from(["zstd", "raw"]),
    seq=st.integers(0, 2**63),
    outcome=st.sampled_from(Outcome),
    source=st.sampled_from(Source),
    texts=st.tuples(*[st.text(max_size=40)] * 3),
    poses=st.dictionaries(st.text(max_size=8), st.tuples(*[st.floats(allow_nan=False)] * 4), max_size=3),
    cell=st.integers(-1, 10_000),
    versions=st.tuples(st.integers(-1, 2**40), st.integers(-1, 2**40)),
    odd=st.sampled_from([np.nan, np.inf, -0.0, 1e-45]),
)
@settings(max_examples=60, deadline=None)
def test_lossless_round_trip(seed, steps, dim, codec, seq, outcome, source, texts, poses, cell, versions, odd):
    task, scene, instruction = texts
    segment = make(
        np.random.default_rng(seed),
        steps=steps,
        dim=dim,
        task=task,
        scene=scene,
        instruction=instruction,
        outcome=outcome,
        source=source,
        configuration=Configuration(region="B", cell=cell, poses=poses),
        policy_versions=versions,
    )
    segment.reward[0] = odd
    blob = encode(segment, codec=codec, seq=seq)
    header, decoded = decode_segment(blob, SCHEMA)
    assert (header.actor, header.incarnation, header.seq) == ("twin-0", "life", seq)
    for name in ("task", "scene", "instruction", "configuration", "episode", "first_step", "outcome", "source",
                 "policy_versions", "backbone_id"):  # fmt: skip
        assert getattr(decoded, name) == getattr(segment, name)
    for name in ("side", "wrist", "proprio"):
        same(getattr(decoded.observation, name), getattr(segment.observation, name))
    for name in ("action", "reward", "human"):
        same(getattr(decoded, name), getattr(segment, name))
    assert (decoded.embedding is None) == (segment.embedding is None)
    if dim:
        same(decoded.embedding, segment.embedding)


def same(left: np.ndarray, right: np.ndarray) -> None:
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert left.tobytes() == right.tobytes()


def test_jpeg_keeps_smooth_images_and_exact_numbers():
    ramp = np.linspace(0, 255, 32)[:, None] + np.zeros(32)
    side = np.stack([np.stack([ramp, ramp.T, ramp], axis=-1)] * 6).astype(np.uint8)
    segment = make(np.random.default_rng(0))
    segment = replace(segment, observation=replace(segment.observation, side=side))
    blob = encode(segment, codec="jpeg")
    _, decoded = decode_segment(blob, SCHEMA)
    assert np.abs(decoded.observation.side.astype(int) - side).mean() < 3
    same(decoded.action, segment.action)
    assert len(blob) < len(encode(segment, codec="raw"))


def test_zstd_finds_the_background_again_in_every_frame():
    rng = np.random.default_rng(0)
    still = np.repeat(rng.integers(0, 256, (1, 32, 32, 3), np.uint8), 17, axis=0)
    segment = make(rng, steps=16)
    segment = replace(segment, observation=replace(segment.observation, side=still))
    frames = 17 * (32**2 + 16**2) * 3
    assert len(encode(segment)) < frames - 15 * 32**2 * 3


def test_numbers_come_without_frames():
    segment = make(np.random.default_rng(1))
    blob = forge(encode(segment), frames=b"not an image")
    header, decoded = decode_head(blob, SCHEMA)
    assert header.steps == 5
    same(decoded.observation.proprio, segment.observation.proprio)
    assert decoded.observation.side.shape == (0, 32, 32, 3)
    assert decoded.finite()
    with pytest.raises(CorruptData):
        decode_segment(blob, SCHEMA)


@pytest.mark.parametrize("codec", CODECS)
def test_every_cut_and_every_flipped_byte_is_noticed(codec):
    blob = encode(make(np.random.default_rng(2), steps=1), codec=codec)
    for length in range(0, len(blob), 97):
        with pytest.raises(CorruptData):
            decode_segment(blob[:length], SCHEMA)
    for position in [*range(PREFIX.size + 40), *range(PREFIX.size + 40, len(blob), 101)]:
        damaged = bytearray(blob)
        damaged[position] ^= 0x41
        with pytest.raises((CorruptData, SchemaMismatch)):
            decode_segment(bytes(damaged), SCHEMA)


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(data):
    for attempt in (data, b"TWRL" + data, forge_prefix(data)):
        with pytest.raises((CorruptData, SchemaMismatch)):
            decode_segment(attempt, SCHEMA)


def forge_prefix(data: bytes) -> bytes:
    """Returns a header that passes every check of form."""
    return sealed(data, b"", b"")


def test_pickles_are_refused():
    pickled = (
        b"\x80\x04\x95\x1d" + bytes(7) + b"\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94."
    )
    with pytest.raises(CorruptData, match="not a segment"):
        decode_segment(pickled, SCHEMA)


@pytest.mark.parametrize("lengths", [(2**32 - 1, 0, 0), (0, 2**32 - 1, 0), (0, 0, 2**32 - 1), (100_000, 0, 0)])
def test_absurd_lengths_are_refused_without_allocating(lengths):
    blob = PREFIX.pack(b"TWRL", 2, *lengths, 0, 0) + b"x" * 100_000
    refuse_cheaply(blob)


@pytest.mark.parametrize("claim", [0, 1 << 20, 1 << 40])
def test_frames_that_claim_another_size_are_refused_without_allocating(claim):
    blob = encode(make(np.random.default_rng(3)))
    # A zstd frame header with an 8-byte content size (RFC 8878, section 3.1.1.1), then an empty last block.
    bomb = b"\x28\xb5\x2f\xfd" + bytes([0b1110_0000]) + struct.pack("<Q", claim) + b"\x01\x00\x00"
    refuse_cheaply(forge(blob, frames=bomb))


def test_a_real_decompression_bomb_is_refused_without_allocating():
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    refuse_cheaply(forge(encode(make(np.random.default_rng(3))), frames=bomb))


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"steps": 17},
        {"steps": 6},
        {"embedding_dim": 5},
        {"embedding_dim": 2**31},
        {"codec": "pickle"},
        {"codec": "raw"},
        {"outcome": "won"},
        {"source": "dream"},
    ],
)
def test_headers_that_promise_other_contents_are_refused(changes):
    blob = encode(make(np.random.default_rng(4)))
    refuse_cheaply(forge(blob, header=changed_header(blob, **changes)))


def refuse_cheaply(blob: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CorruptData):
            decode_segment(blob, SCHEMA)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_jpeg_of_another_size_or_count_is_refused():
    large = Schema(side_px=64, wrist_px=16)
    segment = make(np.random.default_rng(5))
    frames = np.zeros((6, 64, 64, 3), np.uint8)
    big = replace(segment, observation=replace(segment.observation, side=frames))
    blob = encode_segment(big, large, actor="a", incarnation="i", seq=0, codec="jpeg")
    with pytest.raises(CorruptData, match="64x64"):
        decode_segment(forge(blob, header=changed_header(blob, schema_hash=SCHEMA.hash)), SCHEMA)
    fewer = changed_header(blob)
    del fewer.image_bytes[0]
    with pytest.raises(CorruptData, match="images"):
        decode_segment(forge(blob, header=fewer), large)


def test_another_schema_or_layout_is_named():
    blob = encode(make(np.random.default_rng(6)))
    with pytest.raises(SchemaMismatch, match=SCHEMA.hash):
        decode_segment(blob, Schema(side_px=64, wrist_px=16))
    with pytest.raises(SchemaMismatch, match="layout 1: this program reads layout 2"):
        read_header(blob[:4] + struct.pack("<I", 1) + blob[8:])


def test_arrays_that_break_the_schema_are_refused_by_name():
    segment = make(np.random.default_rng(7))
    wrong = {
        "action": replace(segment, action=segment.action.astype(np.float64)),
        "reward": replace(segment, reward=segment.reward[:-1]),
        "embedding": replace(segment, embedding=segment.embedding[:-1]),
        "side": replace(segment, observation=replace(segment.observation, side=segment.observation.wrist)),
    }
    for name, broken in wrong.items():
        with pytest.raises(InputError, match=name):
            encode(broken)
    with pytest.raises(InputError, match="codec 'gif': choose one of jpeg, zstd, raw"):
        encode(segment, codec="gif")
    with pytest.raises(InputError, match="actor"):
        encode_segment(segment, SCHEMA, actor="a{b}", incarnation="i", seq=0, codec="raw")
