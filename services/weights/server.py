"""The weights server: takes a version whole, shows it, and answers its publisher when it is on disk.

    Publish ──chunks──► ChunkCheck (crc32, sha256) ──► newest ──► VersionStore.save ──► answer
                                                          │ condition
                     Watch: one coroutine per subscriber, always the newest ◄───┤
                     Pull: chunks serialised once for all subscribers       ◄───┘

A version is announced as soon as every byte of it is verified in memory, while it goes to disk. A server killed in
between comes back with the version before; its publisher, unanswered, sends the version again, and subscribers that
have it already keep it.

Watch waits for a newer version and is woken by Publish; Publish waits for its client, 30 s a message at most; Pull
waits for its client's flow control, which keepalive ends when the client is gone.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial

import grpc
from google.protobuf.message import DecodeError

from protos import weights_pb2 as pb
from protos.errors import CorruptData, InputError
from services.weights.chunks import CHUNK_BYTES, ChunkCheck, serialise
from services.weights.served import Chunks, Served, ServedVersions, payloads
from services.weights.store import VersionStore
from services.weights.tables import Limits, check_version
from services.weights.watchers import DEFAULT_MAX_WATCHERS, Watchers

log = logging.getLogger(__name__)
MESSAGE_TIMEOUT_S = 30.0
DEFAULT_OLDER_VERSIONS = 2


class WeightsService:
    """Serves what the store holds. Reading the store may set damaged files aside."""

    def __init__(
        self,
        store: VersionStore,
        *,
        limits: Limits,
        max_watchers: int = DEFAULT_MAX_WATCHERS,
        older_versions: int = DEFAULT_OLDER_VERSIONS,
    ) -> None:
        self._store, self._limits = store, limits
        self._versions = ServedVersions(older=older_versions)
        self._watchers = Watchers(max_watchers)
        self._publishing, self._saving = asyncio.Lock(), asyncio.Lock()
        self._save_tasks: set[asyncio.Task[str]] = set()
        self._changed = asyncio.Condition()
        self._served_bytes = 0
        loaded = store.load()
        if loaded is not None:
            version, parts = loaded
            chunks = {sha256: serialise(data) for sha256, data in parts.items()}
            self._versions.add(Served.of(version, chunks, on_disk=True))
            log.info("serving version %d from disk", version.number)

    def handler(self) -> grpc.GenericRpcHandler:
        """Method table for a server; versions and chunks are bytes already."""
        unary, streaming = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        methods = {
            "Status": unary(self.status, pb.WeightsStatusRequest.FromString, pb.WeightsStatus.SerializeToString),
            "Publish": grpc.stream_unary_rpc_method_handler(self.publish, bytes, pb.Published.SerializeToString),
            "Watch": streaming(self.watch, pb.WatchRequest.FromString, bytes),
            "Pull": streaming(self.pull, pb.PullRequest.FromString, bytes),
            "Delta": unary(self.delta, pb.DeltaRequest.FromString, pb.DeltaAnswer.SerializeToString),
            "Report": unary(self.report, pb.WeightsReport.FromString, pb.WeightsReportAnswer.SerializeToString),
        }
        return grpc.method_handlers_generic_handler("twinrl.v1.Weights", methods)

    def summary(self) -> tuple[str, dict[str, float]]:
        """What the server does, for `status`."""
        rates = {name.removeprefix("weights_").removesuffix("_total"): value for name, value in self.metrics().items()}
        return f"version {self._versions.number}, {len(self._watchers)} subscribers", rates

    def metrics(self) -> dict[str, float]:
        """What the Prometheus page shows; called from its threads."""
        number = self._versions.number
        return {
            "weights_version": float(number),
            "weights_watchers": float(len(self._watchers)),
            "weights_slowest_watcher_behind": float(self._watchers.slowest_behind(number)),
            "weights_served_bytes_total": float(self._served_bytes),
            "weights_store_bytes": float(self._store.size_bytes),
        }

    async def status(self, request: pb.WeightsStatusRequest, context: grpc.aio.ServicerContext) -> pb.WeightsStatus:
        highest = max(self._store.highest, self._versions.number)
        answer = pb.WeightsStatus(highest=highest, watchers=self._watchers.listed())
        if self._versions.newest is not None:
            answer.newest.CopyFrom(self._versions.newest.version)
            answer.held.extend(self._versions.newest.parts)
        return answer

    async def publish(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> pb.Published:
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
        except _NotStored as error:
            await context.abort(grpc.StatusCode.INTERNAL, f"the store cannot be written: {error}")
        raise AssertionError("abort raises")

    async def _take(self, requests: AsyncIterator[bytes]) -> int:
        """Receives one version, announces it, stores it."""
        version = (await _next(requests)).version
        check_version(version, self._limits)
        newest = self._versions.newest
        if newest is not None and version.number <= newest.number:
            if version != newest.version:
                raise _Superseded(f"version {version.number} is not above {newest.number}, the newest here")
            await self._store_shielded(newest)  # sent again because the answer was lost
            return newest.number
        parts = await self._receive(version, newest, requests)
        served = Served.of(version, parts, on_disk=False)
        async with self._changed:
            self._versions.add(served)
            self._changed.notify_all()
        await self._store_shielded(served)
        return served.number

    async def _receive(
        self, version: pb.WeightVersion, newest: Served | None, requests: AsyncIterator[bytes]
    ) -> dict[str, Chunks]:
        parts: dict[str, Chunks] = {}
        came = 0
        for part in version.parts:
            if part.sha256 in parts:
                continue
            if newest is not None and part.sha256 in newest.parts:
                if part.size != newest.part(part.sha256).size:
                    raise CorruptData(f"part {part.name!r} gives its sha256 another size than version {newest.number}")
                parts[part.sha256] = newest.parts[part.sha256]
            else:
                parts[part.sha256] = await _receive_part(part, requests)
                came += part.size
        log.info("version %d: %d of %d bytes came", version.number, came, sum(part.size for part in version.parts))
        return parts

    async def _store_shielded(self, served: Served) -> None:
        """Waits until a version is on disk; goes on writing when the publisher that waits for it is gone."""
        task = asyncio.create_task(self._save(served))
        self._save_tasks.add(task)
        task.add_done_callback(self._save_tasks.discard)
        problem = await asyncio.shield(task)
        if problem:
            raise _NotStored(problem)

    async def _save(self, served: Served) -> str:
        """The problem, or nothing."""
        async with self._saving:
            if served.on_disk:
                return ""
            pieces = {sha256: partial(payloads, chunks) for sha256, chunks in served.parts.items()}
            try:
                await asyncio.to_thread(self._store.save, served.version, pieces)
            except OSError as error:
                log.error("version %d is served but not on disk: %s", served.number, error)
                return str(error)
            served.on_disk = True
            return ""

    async def watch(self, request: pb.WatchRequest, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        try:
            with self._watchers.watching(request, context.peer()) as watcher:
                await context.send_initial_metadata(())  # tells the subscriber that it is connected, weights or none
                told: Served | None = None
                while True:
                    told = await self._other_than(told)
                    watcher.told = told.number
                    yield told.announcement
        except InputError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    async def _other_than(self, told: Served | None) -> Served:
        """Waits until the newest version is not the one told."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._versions.newest is not told)
            assert self._versions.newest is not None
            return self._versions.newest

    async def pull(self, request: pb.PullRequest, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        if request.offset % CHUNK_BYTES:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"offset {request.offset}: not at a chunk's start")
        chunks = self._versions.find(request.sha256)
        if chunks is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this part belongs to no version served now")
        assert chunks is not None
        for chunk in chunks[request.offset // CHUNK_BYTES :]:
            self._served_bytes += len(chunk)
            yield chunk

    async def delta(self, request: pb.DeltaRequest, context: grpc.aio.ServicerContext) -> pb.DeltaAnswer:
        sha256, size = await self._versions.delta(request.base_sha256, request.sha256)
        return pb.DeltaAnswer(sha256=sha256, size=size)

    async def report(self, request: pb.WeightsReport, context: grpc.aio.ServicerContext) -> pb.WeightsReportAnswer:
        self._watchers.note(request)
        return pb.WeightsReportAnswer()


class _Superseded(Exception):
    """A version whose number is already taken."""


class _NotStored(Exception):
    """A version that is served and could not be written."""


async def _next(requests: AsyncIterator[bytes]) -> pb.PublishRequest:
    try:
        return pb.PublishRequest.FromString(await asyncio.wait_for(anext(requests), MESSAGE_TIMEOUT_S))
    except StopAsyncIteration as error:
        raise CorruptData("the stream ended before the version was complete") from error
    except DecodeError as error:
        raise CorruptData("a message of the stream is no PublishRequest") from error


async def _receive_part(part: pb.WeightPart, requests: AsyncIterator[bytes]) -> Chunks:
    check, chunks = ChunkCheck(part), []
    while not check.complete:
        message = (await _next(requests)).part_chunk
        if message.sha256 != part.sha256:
            raise CorruptData(f"part {part.name!r}: got a chunk of another part")
        check.take(message.chunk)
        chunks.append(message.chunk.SerializeToString())
    check.finish()
    return tuple(chunks)
