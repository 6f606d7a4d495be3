"""This module serves weights: it takes a version whole, announces it, and answers its publisher when it is on disk.

    Publish ──chunks──► ChunkCheck (crc32, sha256) ──► newest ──► VersionStore.save ──► answer
                                                          │ condition
                     Watch: one coroutine per subscriber, always the newest ◄───┤
                     Pull: chunks serialized once for all subscribers       ◄───┘

A version is announced as soon as every byte of it is verified in memory, while it goes to disk. A server killed in
between comes back with the version before; its publisher, unanswered, sends the version again, and subscribers that
have it already keep it.

A learner says first by which lease it leads (Lead, `services.replay`): from then on versions under a lower number are
refused, by this service and by those that come after it on the same store.

Watch waits for a newer version and is woken by Publish; Publish waits for its client, 30 s a message at most; Pull
waits for its client's flow control, which keepalive ends when the client is gone.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import grpc
from google.protobuf.message import DecodeError

from protos import weights_pb2 as pb
from protos.errors import CorruptData, InputError, LeaseLost
from protos.problems import problem_of
from services.net import caller
from services.weights.store import VersionStore
from services.weights.wire import CHUNK_BYTES, Bytes, ChunkCheck, Limits, check_same, check_version, split

log = logging.getLogger(__name__)
MESSAGE_TIMEOUT_S = 30.0
OLDER_VERSIONS = 2
"""Versions before the newest that stay in memory, for pulls under way."""
DEFAULT_MAX_WATCHERS = 1024
_NAME_CHARACTERS = 80
_HOLDER_CHARACTERS = 300

Chunks = tuple[bytes, ...]
"""The serialized WeightChunk messages of a part."""


@dataclass(eq=False, kw_only=True)
class _Served:
    """A version in memory: what was published, the message that announces it, the chunks of its parts by sha256.

    The announcement names the publisher's role besides, whatever the publisher says.
    """

    version: pb.WeightVersion
    announced: pb.WeightVersion
    announcement: bytes
    parts: dict[str, Chunks]
    on_disk: bool

    @classmethod
    def of(cls, announced: pb.WeightVersion, parts: dict[str, Chunks], *, on_disk: bool) -> "_Served":
        version = pb.WeightVersion()
        version.CopyFrom(announced)
        version.ClearField("publisher")
        message = announced.SerializeToString()
        return cls(version=version, announced=announced, announcement=message, parts=parts, on_disk=on_disk)

    @property
    def number(self) -> int:
        return self.version.number


class Watchers:
    """The open Watch streams: who follows, how far each was told, and what each says it uses.

    Each takes a table entry and one waiting coroutine, however much is published.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[int, pb.WeightsWatcher] = {}
        self._by_id: dict[str, pb.WeightsWatcher] = {}  # the newest stream of each

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def watching(self, request: pb.WatchRequest, peer: str) -> Iterator[pb.WeightsWatcher]:
        """Lists a watcher while its stream is open. Raises InputError when there are too many."""
        if len(self._open) >= self._limit:
            raise InputError(f"{len(self._open)} watchers already; the limit is --max-watchers {self._limit}")
        name, identity = request.name[:_NAME_CHARACTERS], request.id[:_NAME_CHARACTERS]
        watcher = pb.WeightsWatcher(name=name, id=identity, peer=peer)
        self._open[id(watcher)] = self._by_id[identity] = watcher
        log.info("%s watches", name)
        try:
            yield watcher
        finally:
            del self._open[id(watcher)]
            if self._by_id.get(identity) is watcher:
                del self._by_id[identity]
            log.info("%s left", name)

    def note(self, report: pb.WeightsReport) -> None:
        """Notes what a watcher uses; the report of one that does not watch (any more) is dropped."""
        watcher = self._by_id.get(report.id)
        if watcher is not None:
            watcher.using, watcher.reported_unix_s = report.version, time.time()
            watcher.using_unix_s = watcher.reported_unix_s - max(0.0, report.in_use_s)

    def listed(self) -> list[pb.WeightsWatcher]:
        return list(self._open.values())

    def slowest_behind(self, newest: int) -> int:
        """Returns the versions between the newest and the oldest in use, or told where a watcher does not report."""
        used = [watcher.using if watcher.reported_unix_s else watcher.told for watcher in self.listed()]
        return max((max(0, newest - version) for version in used), default=0)


class WeightsService:
    """Serves what the store holds. Reading the store may set damaged files aside."""

    def __init__(
        self,
        store: VersionStore,
        *,
        limits: Limits,
        max_watchers: int = DEFAULT_MAX_WATCHERS,
    ) -> None:
        self._store, self._limits = store, limits
        self._newest: _Served | None = None
        self._older: deque[_Served] = deque(maxlen=OLDER_VERSIONS)
        self._watchers = Watchers(max_watchers)
        self._publishing, self._saving = asyncio.Lock(), asyncio.Lock()
        self._save_tasks: set[asyncio.Task[str]] = set()
        self._changed = asyncio.Condition()
        self._served_bytes = 0
        self._lead = store.load_lead()
        """The newest lease that a learner led with; versions under older ones are refused."""
        loaded = store.load()
        if loaded is not None:
            version, parts = loaded
            chunks = {sha256: _serialized(data) for sha256, data in parts.items()}
            self._newest = _Served.of(version, chunks, on_disk=True)
            log.info("serving version %d from disk", version.number)

    @property
    def _number(self) -> int:
        """Number of the newest version; 0 before the first."""
        return self._newest.number if self._newest is not None else 0

    def handler(self) -> grpc.GenericRpcHandler:
        """Returns the method table for a server; versions and chunks are bytes already."""
        unary, streaming = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        methods = {
            "Status": unary(self.status, pb.WeightsStatusRequest.FromString, pb.WeightsStatus.SerializeToString),
            "Lead": unary(self.lead, pb.LeadRequest.FromString, pb.Led.SerializeToString),
            "Publish": grpc.stream_unary_rpc_method_handler(self.publish, bytes, pb.Published.SerializeToString),
            "Watch": streaming(self.watch, pb.WatchRequest.FromString, bytes),
            "Pull": streaming(self.pull, pb.PullRequest.FromString, bytes),
            "Report": unary(self.report, pb.WeightsReport.FromString, pb.WeightsReportAnswer.SerializeToString),
        }
        return grpc.method_handlers_generic_handler("twinrl.v1.Weights", methods)

    def summary(self) -> tuple[str, dict[str, float]]:
        """Returns the state of the server, for `status`."""
        rates = {name.removeprefix("weights_").removesuffix("_total"): value for name, value in self.metrics().items()}
        return f"version {self._number}, {len(self._watchers)} subscribers", rates

    def metrics(self) -> dict[str, float]:
        """Returns the numbers of the Prometheus page; called from its threads."""
        number = self._number
        return {
            "weights_version": float(number),
            "weights_watchers": float(len(self._watchers)),
            "weights_slowest_watcher_behind": float(self._watchers.slowest_behind(number)),
            "weights_served_bytes_total": float(self._served_bytes),
            "weights_store_bytes": float(self._store.size_bytes),
        }

    async def status(self, request: pb.WeightsStatusRequest, context: grpc.aio.ServicerContext) -> pb.WeightsStatus:
        highest = max(self._store.highest, self._number)
        answer = pb.WeightsStatus(highest=highest, watchers=self._watchers.listed(), lease=self._lead.lease)
        if self._newest is not None:
            answer.newest.CopyFrom(self._newest.version)
            answer.held.extend(self._newest.parts)
        return answer

    async def lead(self, request: pb.LeadRequest, context: grpc.aio.ServicerContext) -> pb.Led:
        request.holder = request.holder[:_HOLDER_CHARACTERS]
        if request.lease <= self._lead.lease and request != self._lead:
            await context.abort(grpc.StatusCode.ABORTED, self._over(request.lease))
        self._lead = request
        log.info("lease %d: %s leads", request.lease, request.holder)
        try:
            await asyncio.to_thread(self._store.save_lead, request)
        except OSError as error:
            await context.abort(grpc.StatusCode.INTERNAL, f"the store cannot be written: {problem_of(error)}")
        return pb.Led()

    def _over(self, lease: int) -> str:
        held = f"{self._lead.holder} leads now, with number {self._lead.lease}"
        return f"the lease of this learner, number {lease}, is over: {held}"

    async def publish(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> pb.Published:
        try:
            async with self._publishing:
                return pb.Published(number=await self._take(requests))
        except InputError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except CorruptData as error:
            log.warning("version not taken: %s", error)
            await context.abort(grpc.StatusCode.DATA_LOSS, str(error))
        except LeaseLost as error:
            log.warning("version not taken: %s", error)
            await context.abort(grpc.StatusCode.ABORTED, str(error))
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
        version.ClearField("publisher")
        check_version(version, self._limits)
        self._check_lease(version)
        newest = self._newest
        if newest is not None and version.number <= newest.number:
            if version != newest.version:
                raise _Superseded(f"version {version.number} is not above {newest.number}, the newest here")
            await self._store_shielded(newest)  # sent again because the answer was lost
            return newest.number
        parts = await self._receive(version, newest, requests)
        self._check_lease(version)  # again: another learner may have come while the parts did
        role = caller()
        version.publisher = "" if role is None else role.value
        served = _Served.of(version, parts, on_disk=False)
        async with self._changed:
            if self._newest is not None:
                self._older.append(self._newest)
            self._newest = served
            self._changed.notify_all()
        await self._store_shielded(served)
        return served.number

    def _check_lease(self, version: pb.WeightVersion) -> None:
        if version.lease < self._lead.lease:
            raise LeaseLost(self._over(version.lease))

    async def _receive(
        self, version: pb.WeightVersion, newest: _Served | None, requests: AsyncIterator[bytes]
    ) -> dict[str, Chunks]:
        """Returns the chunks of every part, those of the newest version where it has the part."""
        held = {} if newest is None else {part.sha256: part for part in newest.version.parts}
        parts: dict[str, Chunks] = {}
        came = 0
        for part in version.parts:
            if part.sha256 in parts:
                continue
            if newest is not None and part.sha256 in held:
                check_same(part, held[part.sha256])
                parts[part.sha256] = newest.parts[part.sha256]
            else:
                parts[part.sha256] = await _receive_part(part, requests)
                came += part.size
        log.info("version %d: %d of %d bytes came", version.number, came, sum(part.size for part in version.parts))
        return parts

    async def _store_shielded(self, served: _Served) -> None:
        """Waits until a version is on disk; goes on writing when the publisher that waits for it is gone."""
        task = asyncio.create_task(self._save(served))
        self._save_tasks.add(task)
        task.add_done_callback(self._save_tasks.discard)
        problem = await asyncio.shield(task)
        if problem:
            raise _NotStored(problem)

    async def _save(self, served: _Served) -> str:
        """Writes a version unless it is on disk; returns the problem, or nothing."""
        async with self._saving:
            if served.on_disk:
                return ""
            pieces = {sha256: partial(_payloads, chunks) for sha256, chunks in served.parts.items()}
            try:
                await asyncio.to_thread(self._store.save, served.announced, pieces)
            except OSError as error:
                log.error("version %d is served but not on disk: %s", served.number, problem_of(error))
                return problem_of(error)
            served.on_disk = True
            return ""

    async def watch(self, request: pb.WatchRequest, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        try:
            with self._watchers.watching(request, context.peer()) as watcher:
                await context.send_initial_metadata(())  # tells the subscriber that it is connected, weights or none
                told: _Served | None = None
                while True:
                    told = await self._other_than(told)
                    watcher.told = told.number
                    yield told.announcement
        except InputError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    async def _other_than(self, told: _Served | None) -> _Served:
        """Waits until the newest version is not the one told."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._newest is not told)
            assert self._newest is not None
            return self._newest

    async def pull(self, request: pb.PullRequest, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        if request.offset % CHUNK_BYTES:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"offset {request.offset}: not at a chunk's start")
        chunks = self._find(request.sha256)
        if chunks is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this part belongs to no version served now")
        assert chunks is not None
        for chunk in chunks[request.offset // CHUNK_BYTES :]:
            self._served_bytes += len(chunk)
            yield chunk

    def _find(self, sha256: str) -> Chunks | None:
        """Returns the chunks of a part of any version held."""
        versions = [self._newest, *self._older] if self._newest is not None else []
        return next((served.parts[sha256] for served in versions if sha256 in served.parts), None)

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


def _serialized(data: Bytes) -> Chunks:
    """Returns the chunks of a part as they travel, made once for everyone who pulls them."""
    return tuple(chunk.SerializeToString() for chunk in split(data))


def _payloads(chunks: Chunks) -> Iterator[bytes]:
    """Yields the bytes of a part, chunk by chunk."""
    return (pb.WeightChunk.FromString(chunk).data for chunk in chunks)
