"""A part in chunks of 1 MiB, each with its crc32: small enough for gRPC's default limits, and where a pull resumes."""

import hashlib
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from protos import weights_pb2 as pb
from protos.errors import CorruptData
from services.weights.memory import MemoryPool

CHUNK_BYTES = 1 << 20
Bytes = bytes | bytearray | memoryview


def split(data: Bytes) -> Iterator[pb.WeightChunk]:
    """The chunks of a part in order."""
    view = memoryview(data)
    for offset in range(0, len(data), CHUNK_BYTES):
        piece = bytes(view[offset : offset + CHUNK_BYTES])
        yield pb.WeightChunk(offset=offset, data=piece, crc32=zlib.crc32(piece))


def serialise(data: Bytes) -> tuple[bytes, ...]:
    """The chunks as they travel, made once for everyone who pulls them."""
    return tuple(chunk.SerializeToString() for chunk in split(data))


class ChunkCheck:
    """Checks the chunks of one part as they arrive in order; keeps none of them."""

    def __init__(self, part: pb.WeightPart) -> None:
        self.part = part
        self.received = 0
        self._hash = hashlib.sha256()

    @property
    def complete(self) -> bool:
        return self.received == self.part.size

    def take(self, chunk: pb.WeightChunk) -> bytes:
        """The bytes of the next chunk. Raises CorruptData and stays as it is when it is damaged or not the next."""
        data = chunk.data  # protobuf copies it at every access
        if chunk.offset != self.received:
            raise CorruptData(f"{self._where()}: got the chunk for byte {chunk.offset}")
        expected = min(CHUNK_BYTES, self.part.size - self.received)
        if len(data) != expected or not expected:
            raise CorruptData(f"{self._where()}: got {len(data)} bytes, expected {expected}")
        if zlib.crc32(data) != chunk.crc32:
            raise CorruptData(f"{self._where()}: the chunk fails its crc32")
        self._hash.update(data)
        self.received += expected
        return data

    def finish(self) -> None:
        """To be called when complete. Raises CorruptData when the bytes are not those that the sha256 names."""
        assert self.complete
        if self._hash.hexdigest() != self.part.sha256:
            raise CorruptData(f"part {self.part.name!r}: {self.part.size} bytes fail their sha256")

    def _where(self) -> str:
        return f"part {self.part.name!r} at byte {self.received}"


class PartAssembly(ChunkCheck):
    """One part as its chunks arrive. The table must have passed `check_version`: its size is allocated here."""

    def __init__(self, part: pb.WeightPart, memory: MemoryPool) -> None:
        super().__init__(part)
        self._data = memory.take(part.name, part.size)

    def add(self, chunk: pb.WeightChunk) -> int:
        """Puts the next chunk in its place and returns its length. Raises CorruptData with nothing changed."""
        start, data = self.received, self.take(chunk)
        self._data.data[start : self.received] = data
        return len(data)

    def data(self) -> NDArray[np.uint8]:
        """All bytes of a complete part. Raises CorruptData when they are not those that its sha256 names."""
        self.finish()
        return self._data
