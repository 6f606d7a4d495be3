"""What the server holds in memory: the newest version, a few before it, and deltas that lead to the newest.

Chunks are serialised once for everyone who pulls them; a part that several versions share is there once.
"""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from protos import weights_pb2 as pb
from services.weights.chunks import serialise
from services.weights.deltas import element_width, make_delta

log = logging.getLogger(__name__)
Chunks = tuple[bytes, ...]  # serialised WeightChunk messages


def payloads(chunks: Chunks) -> Iterator[bytes]:
    """The bytes of a part, chunk by chunk."""
    return (pb.WeightChunk.FromString(chunk).data for chunk in chunks)


@dataclass(eq=False, kw_only=True)
class Served:
    """A version, the message that announces it, and the chunks of its parts by sha256."""

    version: pb.WeightVersion
    announcement: bytes
    parts: dict[str, Chunks]
    on_disk: bool

    @classmethod
    def of(cls, version: pb.WeightVersion, parts: dict[str, Chunks], *, on_disk: bool) -> "Served":
        return cls(version=version, announcement=version.SerializeToString(), parts=parts, on_disk=on_disk)

    @property
    def number(self) -> int:
        return self.version.number

    def part(self, sha256: str) -> pb.WeightPart:
        return next(part for part in self.version.parts if part.sha256 == sha256)


class ServedVersions:
    """The newest version and `older` before it."""

    def __init__(self, *, older: int) -> None:
        self.newest: Served | None = None
        self._older: deque[Served] = deque(maxlen=older)
        self._deltas: dict[tuple[str, str], asyncio.Task[tuple[str, int]]] = {}
        self._delta_chunks: dict[str, Chunks] = {}
        self._one_at_a_time = asyncio.Lock()

    @property
    def number(self) -> int:
        """Of the newest version; 0 before the first."""
        return self.newest.number if self.newest is not None else 0

    def add(self, served: Served) -> None:
        """Makes a version the newest; deltas to the one before it are forgotten."""
        if self.newest is not None:
            self._older.append(self.newest)
        self.newest = served
        self._deltas, self._delta_chunks = {}, {}

    def find(self, sha256: str) -> Chunks | None:
        """The chunks of a part of any version held, or of a delta."""
        versions = [self.newest, *self._older] if self.newest is not None else []
        held = (served.parts for served in versions)
        return next((parts[sha256] for parts in held if sha256 in parts), self._delta_chunks.get(sha256))

    async def delta(self, base_sha256: str, sha256: str) -> tuple[str, int]:
        """sha256 and size of the delta between a part held and one of the newest version; ("", 0) when there is none.

        Made once, in a thread, for all who ask.
        """
        base = self.find(base_sha256)
        newest = self.newest
        if newest is None or base is None or sha256 not in newest.parts or base_sha256 == sha256:
            return "", 0
        key = (base_sha256, sha256)
        if key not in self._deltas:
            self._deltas[key] = asyncio.create_task(self._make(base, newest, sha256))
        return await asyncio.shield(self._deltas[key])

    async def _make(self, base: Chunks, target: Served, sha256: str) -> tuple[str, int]:
        part = target.part(sha256)
        if _size(base) != part.size:
            return "", 0
        async with self._one_at_a_time:
            if self.newest is not target:
                return "", 0
            made = await asyncio.to_thread(_delta, base, target.parts[sha256], part)
        if made is None or self.newest is not target:
            return "", 0
        delta_sha256, size, chunks = made
        log.info("delta to version %d: %d bytes instead of %d", target.number, size, part.size)
        self._delta_chunks[delta_sha256] = chunks
        return delta_sha256, size


def _delta(base: Chunks, new: Chunks, part: pb.WeightPart) -> tuple[str, int, Chunks] | None:
    delta = make_delta(payloads(base), payloads(new), part.size, element_width(part))
    return None if delta is None else (hashlib.sha256(delta).hexdigest(), len(delta), serialise(delta))


def _size(chunks: Chunks) -> int:
    """Bytes of a part, from its last chunk."""
    if not chunks:
        return 0
    last = pb.WeightChunk.FromString(chunks[-1])
    return int(last.offset) + len(last.data)
