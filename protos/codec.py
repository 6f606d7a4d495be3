"""This module turns a segment into bytes and back. No pickle: fixed layouts, a protobuf header, two checksums.

            offset  bytes  content                                                          (numbers little-endian)
    head ┬─ 0       4      magic "TWRL"
         ├─ 4       4      version of this layout, 2
         ├─ 8      12      u32 sizes h, n, f of the three parts that follow
         ├─ 20      4      crc32 of the frames
         ├─ 24      4      crc32 of the 24 bytes above, the header and the numbers
         ├─ 28      h      header: protobuf `SegmentHeader` (protos/replay.proto)
         └─ 28+h    n      numbers: proprio f32 (T+1, 25), action f32 (T, 7), reward f32 (T), human u8 (T),
                           embedding f32 (T+1, D)
            28+h+n  f      frames: the camera images by the header's codec (protos/images.py)

The first 28 bytes are the prefix. The head has a checksum of its own, because reinforcement learning on a frozen
backbone reads only that much: `read_header` and `decode_head` take a head or a whole blob and do not read the
frames.

Every size is checked against the header, and the header against fixed limits, before anything is allocated. Damage
raises `CorruptData`; another observation layout raises `SchemaMismatch`.
"""

import struct
import zlib
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from protos.episode import Segment
from protos.errors import CorruptData, InputError, SchemaMismatch
from protos.folders import check_key
from protos.images import CODECS, decode_images, encode_images
from protos.replay_pb2 import SegmentHeader
from protos.schema import (
    ACTION_DIM,
    PROPRIO_DIM,
    SEGMENT_STEPS,
    U8,
    Configuration,
    Observation,
    Outcome,
    Schema,
    Source,
)

MAX_SEGMENT_BYTES = 128 << 20
"""Larger than 17 observations of the largest cameras, raw."""
MAX_HEADER_BYTES = 64 << 10
MAX_EMBEDDING_DIM = 8192
CHECKSUMS = slice(20, 28)
"""Position of the two checksums in a blob."""

_MAGIC, _VERSION = b"TWRL", 2
_COVERED = struct.Struct("<4sIIIII")
_PREFIX = struct.Struct("<4sIIIIII")
PREFIX_BYTES = _PREFIX.size
_OUTCOMES = frozenset(outcome.value for outcome in Outcome)
_SOURCES = frozenset(source.value for source in Source)

Bytes = bytes | memoryview


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """A prefix holds the sizes in bytes of the three parts of a blob, and the two checksums."""

    header: int
    numbers: int
    frames: int
    frames_crc: int
    head_crc: int

    @property
    def head(self) -> int:
        """The size of prefix, header and numbers, which is where the frames begin."""
        return PREFIX_BYTES + self.header + self.numbers

    @property
    def total(self) -> int:
        """The size of the blob."""
        return self.head + self.frames

    @property
    def checksums(self) -> int:
        """Both checksums as the little-endian number at `CHECKSUMS`, which identifies the segment."""
        return self.head_crc << 32 | self.frames_crc

    def check_head(self, data: Bytes) -> None:
        """Raises CorruptData unless `data` begins with the head that belongs to this prefix."""
        head = memoryview(data)[: self.head]
        if zlib.crc32(head[PREFIX_BYTES:], zlib.crc32(head[: _COVERED.size])) != self.head_crc:
            raise CorruptData("a segment whose checksum is wrong")

    def check_frames(self, frames: Bytes) -> None:
        """Raises CorruptData unless `frames` are those that belong to this prefix."""
        if len(frames) != self.frames:
            raise CorruptData(f"a segment with {len(frames)} bytes of frames, {self.frames} promised")
        if zlib.crc32(frames) != self.frames_crc:
            raise CorruptData("a segment whose frames have another checksum")


def pack_prefix(header: bytes, numbers: bytes, *, frames: int, frames_crc: int) -> bytes:
    """Returns the prefix of a blob with these parts, the frames given by size and checksum."""
    covered = _COVERED.pack(_MAGIC, _VERSION, len(header), len(numbers), frames, frames_crc)
    crc = zlib.crc32(numbers, zlib.crc32(header, zlib.crc32(covered)))
    return covered + crc.to_bytes(4, "little")


def read_prefix(data: Bytes) -> Prefix:
    """Reads the prefix of a blob or of its first bytes.

    Checks that the sizes are within the limits, and nothing else. Raises CorruptData, and SchemaMismatch for another
    layout.
    """
    if len(data) < PREFIX_BYTES:
        raise CorruptData(f"a segment of {len(data)} bytes: {PREFIX_BYTES} to {MAX_SEGMENT_BYTES}")
    magic, version, header, numbers, frames, frames_crc, head_crc = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise CorruptData(f"not a segment: it begins with {magic!r}, not {_MAGIC!r}")
    if version != _VERSION:
        raise SchemaMismatch(f"segment layout {version}: this program reads layout {_VERSION}")
    prefix = Prefix(header=header, numbers=numbers, frames=frames, frames_crc=frames_crc, head_crc=head_crc)
    if header > MAX_HEADER_BYTES or prefix.total > MAX_SEGMENT_BYTES:
        raise CorruptData(f"a segment with parts of {[header, numbers, frames]} bytes")
    return prefix


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSegment:
    """An encoded segment holds the bytes of a segment before it is named.

    Making it is the costly part of encoding and may be done ahead, in any thread.
    """

    header: SegmentHeader
    """Header, whose actor, incarnation and seq are not yet set."""
    numbers: bytes
    frames: bytes
    frames_crc: int
    """Checksum of the frames, which do not depend on the name."""

    def named(self, *, actor: str, incarnation: str, seq: int) -> tuple[SegmentHeader, bytes]:
        """Returns header and blob under the name (actor, incarnation, seq). Raises InputError for an unusable name."""
        check_key("actor", actor)
        check_key("incarnation", incarnation)
        header = SegmentHeader()
        header.CopyFrom(self.header)
        header.actor, header.incarnation, header.seq = actor, incarnation, seq
        packed = header.SerializeToString()
        if len(packed) > MAX_HEADER_BYTES:
            raise InputError(
                f"segment of {header.episode}: texts and poses fill {len(packed)} of {MAX_HEADER_BYTES} bytes"
            )
        prefix = pack_prefix(packed, self.numbers, frames=len(self.frames), frames_crc=self.frames_crc)
        return header, b"".join((prefix, packed, self.numbers, self.frames))


def encode_unnamed(segment: Segment, schema: Schema, *, codec: str) -> EncodedSegment:
    """Encodes a segment without naming it. Raises InputError for an unknown codec or arrays that do not fit."""
    if codec not in CODECS:
        raise InputError(f"codec {codec!r}: choose one of {', '.join(CODECS)}")
    _check_arrays(segment, schema)
    frames, image_bytes = encode_images(segment.observation, codec)
    header = SegmentHeader(
        schema_hash=schema.hash,
        codec=codec,
        task=segment.task,
        scene=segment.scene,
        instruction=segment.instruction,
        start=_encode_configuration(segment.configuration),
        episode=segment.episode,
        first_step=segment.first_step,
        steps=segment.steps,
        outcome=segment.outcome.value,
        source=segment.source.value,
        oldest_version=segment.policy_versions[0],
        newest_version=segment.policy_versions[1],
        backbone_id=segment.backbone_id,
        embedding_dim=0 if segment.embedding is None else segment.embedding.shape[1],
        image_bytes=image_bytes,
    )
    numbers = _encode_numbers(segment)
    return EncodedSegment(header=header, numbers=numbers, frames=frames, frames_crc=zlib.crc32(frames))


def encode_segment(segment: Segment, schema: Schema, *, actor: str, incarnation: str, seq: int, codec: str) -> bytes:
    """Encodes a segment as a blob named (actor, incarnation, seq).

    Raises InputError for an unknown codec, an unusable name, or arrays that do not fit `schema`.
    """
    encoded = encode_unnamed(segment, schema, codec=codec)
    return encoded.named(actor=actor, incarnation=incarnation, seq=seq)[1]


def read_header(data: bytes) -> SegmentHeader:
    """Reads the header of a blob or of its head alone, after checking sizes and checksum; the frames are not read."""
    return _open(data)[1]


def check_blob(data: bytes) -> SegmentHeader:
    """Reads the header of a whole blob after checking every byte against the checksums."""
    prefix, header, _ = _open(data)
    prefix.check_frames(memoryview(data)[prefix.head :])
    return header


def decode_head(data: bytes, schema: Schema) -> tuple[SegmentHeader, Segment]:
    """Decodes a blob, or its head alone, without its images, which have no rows. The arrays are views of `data`."""
    _, header, numbers = _open(data)
    _check_schema(header, schema)
    side, wrist = (np.empty((0, px, px, 3), np.uint8) for px in (schema.side_px, schema.wrist_px))
    return header, _segment(header, numbers, side, wrist)


def decode_segment(data: bytes, schema: Schema) -> tuple[SegmentHeader, Segment]:
    """Decodes a whole blob."""
    prefix, header, numbers = _open(data)
    _check_schema(header, schema)
    frames = memoryview(data)[prefix.head :]
    prefix.check_frames(frames)
    side, wrist = decode_images(frames, header.codec, header.image_bytes, header.steps + 1, schema)
    return header, _segment(header, numbers, side, wrist)


def has_human_step(header: SegmentHeader, data: bytes) -> bool:
    """Tells whether a person chose an action in this blob, whose header has been read."""
    rows, steps = header.steps + 1, header.steps
    start = PREFIX_BYTES + read_prefix(data).header + 4 * (rows * PROPRIO_DIM + steps * ACTION_DIM + steps)
    return any(data[start : start + steps])


def configuration_of(header: SegmentHeader) -> Configuration:
    """Returns the episode's initial configuration."""
    poses = {name: (pose.x, pose.y, pose.z, pose.yaw) for name, pose in header.start.poses.items()}
    return Configuration(region=header.start.region, cell=header.start.cell, poses=poses)


def _encode_configuration(configuration: Configuration) -> SegmentHeader.Start:
    poses = {name: SegmentHeader.Pose(x=x, y=y, z=z, yaw=yaw) for name, (x, y, z, yaw) in configuration.poses.items()}
    return SegmentHeader.Start(region=configuration.region, cell=configuration.cell, poses=poses)


def _check_arrays(segment: Segment, schema: Schema) -> None:
    steps = segment.steps
    if not 1 <= steps <= SEGMENT_STEPS:
        raise InputError(f"segment of {steps} steps: 1 to {SEGMENT_STEPS}")
    seen = segment.observation
    expected: list[tuple[str, NDArray[np.generic], tuple[int, ...], str]] = [
        ("side", seen.side, (steps + 1, schema.side_px, schema.side_px, 3), "uint8"),
        ("wrist", seen.wrist, (steps + 1, schema.wrist_px, schema.wrist_px, 3), "uint8"),
        ("proprio", seen.proprio, (steps + 1, PROPRIO_DIM), "float32"),
        ("action", segment.action, (steps, ACTION_DIM), "float32"),
        ("reward", segment.reward, (steps,), "float32"),
        ("human", segment.human, (steps,), "bool"),
    ]
    if segment.embedding is not None:
        dim = segment.embedding.shape[-1]
        if not 1 <= dim <= MAX_EMBEDDING_DIM:
            raise InputError(f"embedding of {dim} numbers: 1 to {MAX_EMBEDDING_DIM}")
        expected.append(("embedding", segment.embedding, (steps + 1, dim), "float32"))
    for name, array, shape, dtype in expected:
        if array.shape != shape or array.dtype != dtype:
            raise InputError(f"{name}: {array.dtype}{array.shape}, this schema has {dtype}{shape}")


def _encode_numbers(segment: Segment) -> bytes:
    floats = [segment.observation.proprio, segment.action, segment.reward]
    parts = [array.astype("<f4", copy=False).tobytes() for array in floats]
    parts.append(segment.human.tobytes())
    if segment.embedding is not None:
        parts.append(segment.embedding.astype("<f4", copy=False).tobytes())
    return b"".join(parts)


def _segment(header: SegmentHeader, numbers: memoryview, side: U8, wrist: U8) -> Segment:
    steps, dim = header.steps, header.embedding_dim
    rows = steps + 1
    sizes = [rows * PROPRIO_DIM * 4, steps * ACTION_DIM * 4, steps * 4, steps, rows * dim * 4]
    if len(numbers) != sum(sizes):
        raise CorruptData(f"segment of {header.episode}: {len(numbers)} bytes of numbers, {sum(sizes)} promised")
    proprio, action, reward, human, embedding = (
        numbers[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)
    )
    seen = np.frombuffer(proprio, "<f4").reshape(rows, PROPRIO_DIM)
    return Segment(
        task=header.task,
        scene=header.scene,
        instruction=header.instruction,
        configuration=configuration_of(header),
        episode=header.episode,
        first_step=header.first_step,
        outcome=Outcome(header.outcome),
        source=Source(header.source),
        policy_versions=(header.oldest_version, header.newest_version),
        backbone_id=header.backbone_id,
        observation=Observation(side=side, wrist=wrist, proprio=seen),
        action=np.frombuffer(action, "<f4").reshape(steps, ACTION_DIM),
        reward=np.frombuffer(reward, "<f4"),
        human=np.frombuffer(human, np.uint8) != 0,
        embedding=np.frombuffer(embedding, "<f4").reshape(rows, dim) if dim else None,
    )


def _open(data: bytes) -> tuple[Prefix, SegmentHeader, memoryview]:
    """Returns prefix, header and numbers of a blob or a head, after the checks that need no schema."""
    prefix = read_prefix(data)
    if len(data) not in (prefix.head, prefix.total):
        raise CorruptData(f"a segment of {len(data)} bytes that says it has {prefix.total}")
    prefix.check_head(data)
    numbers = PREFIX_BYTES + prefix.header
    return prefix, _parse_header(data[PREFIX_BYTES:numbers]), memoryview(data)[numbers : prefix.head]


def _parse_header(data: bytes) -> SegmentHeader:
    try:
        header = SegmentHeader.FromString(data)
    except DecodeError as error:
        raise CorruptData(f"a segment header that does not parse: {error}") from error
    known = header.codec in CODECS and header.outcome in _OUTCOMES and header.source in _SOURCES
    if not (known and 1 <= header.steps <= SEGMENT_STEPS and header.embedding_dim <= MAX_EMBEDDING_DIM):
        raise CorruptData(f"segment of {header.episode}: steps, codec, outcome or source out of range")
    return header


def _check_schema(header: SegmentHeader, schema: Schema) -> None:
    if header.schema_hash != schema.hash:
        raise SchemaMismatch(
            f"a segment of {header.actor} with schema {header.schema_hash}: this program has {schema.hash} "
            f"(side {schema.side_px} px, wrist {schema.wrist_px} px)"
        )
