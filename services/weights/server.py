"""The weights server: takes a version whole, puts it on disk, then shows it.

    Publish ──chunks──► PartAssembly (crc32, sha256) ──► VersionStore.save ──► newest
                                                                                │ condition
                     Watch: one coroutine per subscriber, always the newest ◄───┤
                     Pull: chunks serialised once for all subscribers       ◄───┘

Watch waits for a newer version and is woken by Publish; Publish waits for its client, 30 s a message at most; Pull
waits for its client's flow control, which keepalive ends when the client is gone.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc

from protos import weights_pb2 as pb
from protos.errors import CorruptData, InputError
from services.weights.chunks import CHUNK_BYTES, PartAssembly, split
from services.weights.store import VersionStore
from services.weights.tensors import check_version

log = logging.getLogger(__name__)
MESSAGE_TIMEOUT_S = 30.0
Chunks = tuple[bytes, ...]  # serialised WeightChunk messages


@dataclass(frozen=True, kw_only=True)
class _Served:
    """A version and the chunks of its parts by sha256."""

    version: pb.WeightVersion
    parts: dict[str, Chunks]


class WeightsService:
    """Serves what the store holds. Reading the store may set damaged files aside."""

    def __init__(self, store: VersionStore, *, max_part_bytes: int) -> None:
        self._store, self._max_part_bytes = store, max_part_bytes
        self._newest: _Served | None = None
        self._previous: _Served | None = None  # pulls of it may still be under way
        self._publishing = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._watchers: dict[int, pb.WeightsWatcher] = {}
        loaded = store.load()
        if loaded is not None:
            version, parts = loaded
            self._newest = _Served(version=version, parts={sha: _serialise(data) for sha, data in parts.items()})
            log.info("serving version %d from disk", version.number)

    def handler(self) -> grpc.GenericRpcHandler:
        """Method table for a server; Pull's chunks are bytes already."""
        methods = {
            "Status": grpc.unary_unary_rpc_method_handler(
                self.status, pb.WeightsStatusRequest.FromString, pb.WeightsStatus.SerializeToString
            ),
            "Publish": grpc.stream_unary_rpc_method_handler(
                self.publish, pb.PublishRequest.FromString, pb.Published.SerializeToString
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self.watch, pb.WatchRequest.FromString, pb.WeightVersion.SerializeToString
            ),
            "Pull": grpc.unary_stream_rpc_method_handler(self.pull, pb.PullRequest.FromString, bytes),
        }
        return grpc.method_handlers_generic_handler("twinrl.v1.Weights", methods)

    def summary(self) -> tuple[str, dict[str, float]]:
        """What the server does, for `status`."""
        number = self._newest.version.number if self._newest else 0
        return f"version {number}, {len(self._watchers)} subscribers", {"version": float(number)}

    async def status(self, request: pb.WeightsStatusRequest, context: grpc.aio.ServicerContext) -> pb.WeightsStatus:
        answer = pb.WeightsStatus(highest=self._store.highest, watchers=self._watchers.values())
        if self._newest is not None:
            answer.newest.CopyFrom(self._newest.version)
            answer.held.extend(self._newest.parts)
        return answer

    async def publish(
        self, requests: AsyncIterator[pb.PublishRequest], context: grpc.aio.ServicerContext
    ) -> pb.Published:
        try:
            async with self._publishing:
                return pb.Published(number=await self._take(requests))
        except InputError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except CorruptData as error:
            log.warning("version not taken: %s", error)
            await context.abort(grpc.StatusCode.DATA_LOSS, str(error))
        except _Superseded as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no chunk came for {MESSAGE_TIMEOUT_S:g} s")
        except OSError as error:
            log.error("version not taken: %s", error)
            await context.abort(grpc.StatusCode.INTERNAL, f"the store cannot be written: {error}")
        raise AssertionError("abort raises")

    async def _take(self, requests: AsyncIterator[pb.PublishRequest]) -> int:
        """Receives one version, stores it, announces it."""
        version = (await _next(requests)).version
        check_version(version, self._max_part_bytes)
        held = self._newest.parts if self._newest else {}
        if self._newest is not None and version.number <= self._newest.version.number:
            if version == self._newest.version:  # sent again because the answer was lost
                return version.number
            raise _Superseded(f"version {version.number} is not above {self._newest.version.number}, the newest here")
        arrived: dict[str, bytearray] = {}
        for part in version.parts:
            if part.sha256 not in held and part.sha256 not in arrived:
                arrived[part.sha256] = await _receive(part, requests)
        known = held | await asyncio.to_thread(self._persist, version, arrived)
        parts = {part.sha256: known[part.sha256] for part in version.parts}
        async with self._changed:
            self._previous, self._newest = self._newest, _Served(version=version, parts=parts)
            self._changed.notify_all()
        log.info("version %d: %d bytes came, %d parts kept", version.number, *_counts(version, arrived))
        return version.number

    def _persist(self, version: pb.WeightVersion, arrived: dict[str, bytearray]) -> dict[str, Chunks]:
        self._store.save(version, arrived)
        return {sha256: _serialise(data) for sha256, data in arrived.items()}

    async def watch(
        self, request: pb.WatchRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WeightVersion]:
        told: _Served | None = None
        watcher = pb.WeightsWatcher(name=request.name)
        self._watchers[id(watcher)] = watcher
        log.info("%s watches", request.name)
        await context.send_initial_metadata(())  # tells the subscriber that it is connected, weights or none
        try:
            while True:
                told = await self._other_than(told)
                watcher.told = told.version.number
                yield told.version
        finally:
            del self._watchers[id(watcher)]
            log.info("%s left", request.name)

    async def _other_than(self, told: _Served | None) -> _Served:
        """Waits until the newest version is not the one told."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._newest is not told)
            assert self._newest is not None
            return self._newest

    async def pull(self, request: pb.PullRequest, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        if request.offset % CHUNK_BYTES:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"offset {request.offset}: not at a chunk's start")
        for served in (self._newest, self._previous):
            if served is not None and request.sha256 in served.parts:
                for chunk in served.parts[request.sha256][request.offset // CHUNK_BYTES :]:
                    yield chunk
                return
        await context.abort(grpc.StatusCode.NOT_FOUND, "this part belongs to no version served now")


class _Superseded(Exception):
    """A version whose number is already taken."""


async def _next(requests: AsyncIterator[pb.PublishRequest]) -> pb.PublishRequest:
    try:
        return await asyncio.wait_for(anext(requests), MESSAGE_TIMEOUT_S)
    except StopAsyncIteration as error:
        raise CorruptData("the stream ended before the version was complete") from error


async def _receive(part: pb.WeightPart, requests: AsyncIterator[pb.PublishRequest]) -> bytearray:
    assembly = PartAssembly(part)
    while not assembly.complete:
        message = (await _next(requests)).part_chunk
        if message.sha256 != part.sha256:
            raise CorruptData(f"part {part.name!r}: got a chunk of another part")
        assembly.add(message.chunk)
    return assembly.finish()


def _serialise(data: bytes | bytearray) -> Chunks:
    return tuple(chunk.SerializeToString() for chunk in split(data))


def _counts(version: pb.WeightVersion, arrived: dict[str, bytearray]) -> tuple[int, int]:
    return sum(map(len, arrived.values())), len(version.parts) - len(arrived)
