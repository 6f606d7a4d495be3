"""The first bytes of a segment's blob: what the rest of it is, and two checksums.

    offset  bytes  content
    0       4      magic "TWRL"
    4       4      version of this layout, 2            (numbers are little-endian)
    8       12     u32 sizes h, n, f of header, numbers and frames, which follow in this order
    20      4      crc32 of the frames
    24      4      crc32 of the 24 bytes above, the header and the numbers

Prefix, header and numbers together are the head of a segment. It can be read and checked without the frames, and says
what they must be.
"""

import struct
import zlib
from dataclasses import dataclass

from protos.errors import CorruptData, SchemaMismatch

MAX_SEGMENT_BYTES = 128 << 20
"""Larger than 17 observations of the largest cameras, raw."""
MAX_HEADER_BYTES = 64 << 10
CHECKSUMS = slice(20, 28)
"""Where a blob has its two checksums."""

_MAGIC, _VERSION = b"TWRL", 2
_COVERED = struct.Struct("<4sIIIII")
_PREFIX = struct.Struct("<4sIIIIII")
PREFIX_BYTES = _PREFIX.size

Bytes = bytes | memoryview


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """Sizes in bytes of the three parts, and the checksums."""

    header: int
    numbers: int
    frames: int
    frames_crc: int
    head_crc: int

    @property
    def head(self) -> int:
        """Size of prefix, header and numbers, which is where the frames begin."""
        return PREFIX_BYTES + self.header + self.numbers

    @property
    def total(self) -> int:
        """Size of the blob."""
        return self.head + self.frames

    @property
    def checksums(self) -> int:
        """Both, as the little-endian number that the blob has at `CHECKSUMS`: tells one segment from another."""
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
    """The prefix of a blob with these parts, the frames given by size and checksum."""
    covered = _COVERED.pack(_MAGIC, _VERSION, len(header), len(numbers), frames, frames_crc)
    crc = zlib.crc32(numbers, zlib.crc32(header, zlib.crc32(covered)))
    return covered + crc.to_bytes(4, "little")


def read_prefix(data: Bytes) -> Prefix:
    """What a blob, or the beginning of one, says of itself; its sizes are within the limits, nothing else is checked.

    Raises CorruptData, and SchemaMismatch for another layout.
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
