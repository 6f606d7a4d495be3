"""A part in chunks of 1 MiB, each with its crc32: small enough for gRPC's default limits, and where a pull resumes."""

import hashlib
import zlib
from collections.abc import Iterator

from protos import weights_pb2 as pb
from protos.errors import CorruptData

CHUNK_BYTES = 1 << 20


def split(data: bytes | bytearray) -> Iterator[pb.WeightChunk]:
    """The chunks of a part in order."""
    view = memoryview(data)
    for offset in range(0, len(data), CHUNK_BYTES):
        piece = bytes(view[offset : offset + CHUNK_BYTES])
        yield pb.WeightChunk(offset=offset, data=piece, crc32=zlib.crc32(piece))


class PartAssembly:
    """One part as its chunks arrive in order. The table must have passed `check_version`: it is allocated here."""

    def __init__(self, part: pb.WeightPart) -> None:
        self.part = part
        self.received = 0
        self._data = bytearray(part.size)
        self._hash = hashlib.sha256()

    @property
    def complete(self) -> bool:
        return self.received == self.part.size

    def add(self, chunk: pb.WeightChunk) -> None:
        """Takes the next chunk. Raises CorruptData and keeps what it has when the chunk is damaged or not the next."""
        where = f"part {self.part.name!r} at byte {self.received}"
        if chunk.offset != self.received:
            raise CorruptData(f"{where}: got the chunk for byte {chunk.offset}")
        expected = min(CHUNK_BYTES, self.part.size - self.received)
        if len(chunk.data) != expected or not expected:
            raise CorruptData(f"{where}: got {len(chunk.data)} bytes, expected {expected}")
        if zlib.crc32(chunk.data) != chunk.crc32:
            raise CorruptData(f"{where}: the chunk fails its crc32")
        self._data[self.received : self.received + expected] = chunk.data
        self._hash.update(chunk.data)
        self.received += expected

    def finish(self) -> bytearray:
        """All bytes of a complete part. Raises CorruptData when they are not those that its sha256 names."""
        assert self.complete
        if self._hash.hexdigest() != self.part.sha256:
            raise CorruptData(f"part {self.part.name!r}: {self.part.size} bytes fail their sha256")
        return self._data
