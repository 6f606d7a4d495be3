"""A version on its way out of the learner: first as snapshots, then in wire form, then as requests to the server."""

import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from protos import weights_pb2 as pb
from services.weights.chunks import CHUNK_BYTES
from services.weights.memory import MemoryPool
from services.weights.snapshot import EncodedPart, PartSnapshot
from services.weights.tables import Limits, check_version

_NO_LIMITS = Limits(max_part_bytes=1 << 62, max_version_bytes=1 << 62)
"""The server knows how much it takes."""


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A version in wire form."""

    version: pb.WeightVersion
    parts: list[EncodedPart]

    def missing(self, held: Collection[str]) -> dict[str, EncodedPart]:
        """By sha256 the parts that a server holding `held` needs, each once."""
        return {part.table.sha256: part for part in self.parts if part.table.sha256 not in held}

    def missing_bytes(self, held: Collection[str]) -> int:
        return sum(part.table.size for part in self.missing(held).values())

    def requests(self, held: Collection[str]) -> Iterator[pb.PublishRequest]:
        """The stream of Publish."""
        yield pb.PublishRequest(version=self.version)
        for sha256, part in self.missing(held).items():
            view = part.data.data
            for offset in range(0, part.table.size, CHUNK_BYTES):
                piece = bytes(view[offset : offset + CHUNK_BYTES])
                request = pb.PublishRequest()
                request.part_chunk.sha256 = sha256
                chunk = request.part_chunk.chunk  # filled in place: each constructor would copy the bytes once more
                chunk.offset, chunk.data, chunk.crc32 = offset, piece, zlib.crc32(piece)
                yield request


@dataclass(frozen=True, kw_only=True)
class VersionSnapshot:
    """A version as publish() left it."""

    version: pb.WeightVersion
    parts: Mapping[str, PartSnapshot]

    def encode(self, memory: MemoryPool) -> Outgoing:
        """Raises InputError when a tensor holds NaN or infinity, CorruptData for a table that no server would take."""
        encoded = [part.encode(memory) for part in self.parts.values()]
        self.version.parts.extend(part.table for part in encoded)
        check_version(self.version, _NO_LIMITS)
        return Outgoing(version=self.version, parts=encoded)
