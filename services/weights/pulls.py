"""How a subscriber gets the parts that a version changed: chunk by chunk, taken up where a stream broke, or as a delta.

part ──► held already? ──► delta from the part of that name? ──► Pull ──► PartAssembly ──► decode ──► tensors
"""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from protos import weights_pb2 as pb
from protos.errors import CorruptData
from services.weights.chunks import PartAssembly
from services.weights.deltas import apply_delta
from services.weights.memory import MemoryPool
from services.weights.tensors import Tensors, decode_part

log = logging.getLogger(__name__)
PULL_DEADLINE_S = 60.0
"""Of one Pull stream; a part that takes longer resumes where it was. The server makes a delta within it too."""
PartKey = bytes
"""A part's table, which holds the sha256 of its bytes: equal bytes may be other tensors in another part."""


@dataclass(frozen=True, kw_only=True)
class HeldPart:
    """A part in use: its table, its tensors, and its bytes where deltas may start from them."""

    table: pb.WeightPart
    tensors: Tensors
    data: NDArray[np.uint8] | None


@dataclass(frozen=True, kw_only=True)
class _Transfer:
    """A part on its way, whole or as a delta from `base`."""

    assembly: PartAssembly
    base: NDArray[np.uint8] | None


class PartPuller:
    """Pulls the parts of versions, one version at a time; what arrived of a part stays when a stream breaks.

    `counts` is added to: resumed, deltas, pulled_bytes. gRPC's errors and CorruptData pass through; the next call goes
    on where they left.
    """

    def __init__(self, stub: Any, *, delta: bool, counts: Counter[str]) -> None:
        self._stub, self._delta, self._counts = stub, delta, counts
        self._wire, self._decoded = MemoryPool(), MemoryPool()
        self._held: dict[PartKey, HeldPart] = {}
        self._transfers: dict[str, _Transfer] = {}  # by sha256
        self._whole_only: set[str] = set()  # parts whose delta led to other bytes

    def parts(self, version: pb.WeightVersion) -> dict[str, Tensors]:
        """The tensors of every part by name; those that did not change are the same arrays as before."""
        wanted = {part.sha256 for part in version.parts}
        self._transfers = {sha256: transfer for sha256, transfer in self._transfers.items() if sha256 in wanted}
        self._whole_only &= wanted
        parts = [self._part(part) for part in version.parts]
        self._held = {_key(part.table): part for part in parts}
        self._transfers = {}
        return {part.table.name: part.tensors for part in parts}

    def _part(self, part: pb.WeightPart) -> HeldPart:
        held = self._held.get(_key(part))
        if held is not None:
            return held
        transfer = self._transfers.get(part.sha256)
        if transfer is None:
            transfer = self._transfers[part.sha256] = self._begin(part)
        elif not transfer.assembly.complete:
            self._counts["resumed"] += 1
        if not transfer.assembly.complete:
            self._pull(transfer.assembly)
        try:
            data = self._finish(part, transfer)
            tensors = decode_part(part, data, self._decoded)
        except CorruptData:
            del self._transfers[part.sha256]
            raise
        return HeldPart(table=part, tensors=tensors, data=data if self._delta else None)

    def _begin(self, part: pb.WeightPart) -> _Transfer:
        base = self._base(part) if self._delta else None
        if base is not None:
            answer = self._ask_delta(pb.DeltaRequest(base_sha256=base.table.sha256, sha256=part.sha256))
            if answer.sha256 and 0 < answer.size < part.size:
                delta = pb.WeightPart(name=f"{part.name} (delta)", sha256=answer.sha256, size=answer.size)
                return _Transfer(assembly=PartAssembly(delta, self._wire), base=base.data)
        return _Transfer(assembly=PartAssembly(part, self._wire), base=None)

    def _base(self, part: pb.WeightPart) -> HeldPart | None:
        """The part of the same name and size in the version in use."""
        if part.sha256 in self._whole_only:
            return None
        same = (held for held in self._held.values() if held.table.name == part.name)
        return next((held for held in same if held.data is not None and held.table.size == part.size), None)

    def _ask_delta(self, request: pb.DeltaRequest) -> pb.DeltaAnswer:
        try:
            return self._stub.Delta(request, timeout=PULL_DEADLINE_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            return pb.DeltaAnswer()

    def _finish(self, part: pb.WeightPart, transfer: _Transfer) -> NDArray[np.uint8]:
        """The checked bytes of the part."""
        data = transfer.assembly.data()
        if transfer.base is None:
            return data
        try:
            data = apply_delta(transfer.base, data)
            if hashlib.sha256(data.data).hexdigest() != part.sha256:
                raise CorruptData(f"part {part.name!r}: its delta leads to bytes that fail their sha256")
        except CorruptData:
            self._whole_only.add(part.sha256)
            raise
        self._counts["deltas"] += 1
        return data

    def _pull(self, assembly: PartAssembly) -> None:
        """Adds chunks until the part is complete."""
        request = pb.PullRequest(sha256=assembly.part.sha256, offset=assembly.received)
        stream = self._stub.Pull(request, timeout=PULL_DEADLINE_S)
        try:
            for chunk in stream:
                self._counts["pulled_bytes"] += assembly.add(chunk)
        finally:
            stream.cancel()
        if not assembly.complete:
            raise CorruptData(f"part {assembly.part.name!r}: the stream ended at byte {assembly.received}")


def _key(part: pb.WeightPart) -> PartKey:
    return part.SerializeToString(deterministic=True)
