"""Asks every service of a cluster once, all at the same time, each with deadlines of its own."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TypeVar

import grpc

from protos import weights_pb2 as pb
from protos.errors import TwinRLError
from protos.weights_pb2_grpc import WeightsStub
from services.guide import GuideClient
from services.net.credentials import Credentials
from services.net.transport import open_channel, unreachable
from services.replay import ReplaySettings
from services.replay.presence import Presence, presence_on
from services.replay.server.stats import ServerStats, server_stats

CONNECT_S, ANSWER_S = 1.0, 1.5
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Where the services are; None leaves one out."""

    replay: ReplaySettings | None = None
    weights: str | None = None
    """host:port"""
    guide: str | None = None
    """host:port"""
    credentials: Credentials = field(default_factory=Credentials)
    """For weights and guide."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a service did not answer, in one line."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """One subscriber of the weights service."""

    name: str
    told: int
    """Newest version announced to it."""
    using: int
    """Version it acts with, 0 before it said so."""
    behind: int
    """Versions published since the one it uses."""
    using_s: float
    """Seconds since it took that version into use, 0 before it said so."""


@dataclass(frozen=True, kw_only=True)
class WeightsReading:
    """What the weights service says."""

    version: int
    """0 before the first."""
    age_s: float
    """Seconds since the newest version was published, 0 before the first."""
    watchers: tuple[Watcher, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All that a cluster said at one moment; None for a service that was left out."""

    t: float
    """Unix seconds."""
    shards: tuple[ServerStats, ...]
    peers: tuple[Presence, ...]
    """Writers and readers heard of in the last 20 s. Those of a shard that does not answer are missing."""
    weights: WeightsReading | Problem | None
    targets: int | Problem | None
    """Cells that the guide aims at."""

    @property
    def writers(self) -> list[Presence]:
        return [peer for peer in self.peers if peer.kind == "writer"]

    @property
    def readers(self) -> list[Presence]:
        """One each, with its latest words: a reader says the same on every shard."""
        latest: dict[str, Presence] = {}
        for peer in sorted(self.peers, key=lambda peer: -peer.age_s):
            if peer.kind == "reader":
                latest[peer.name] = peer
        return [latest[name] for name in sorted(latest)]


def read_cluster(settings: ClusterSettings) -> Reading:
    """Returns within a few seconds, whoever is away. Raises nothing for a service that does not answer."""
    with ThreadPoolExecutor(_shards(settings) + 2) as pool:
        shards = pool.map(lambda shard: _shard(settings.replay, shard), range(_shards(settings)))
        weights = pool.submit(_asked, _weights, settings.weights, settings.credentials)
        targets = pool.submit(_asked, _targets, settings.guide, settings.credentials)
        found = list(shards)
    return Reading(
        t=time.time(),
        shards=tuple(stats for stats, _ in found),
        peers=tuple(peer for _, peers in found for peer in peers),
        weights=weights.result(),
        targets=targets.result(),
    )


def _shards(settings: ClusterSettings) -> int:
    return 0 if settings.replay is None else settings.replay.shards


def _shard(replay: ReplaySettings | None, shard: int) -> tuple[ServerStats, list[Presence]]:
    """One shard and who writes to it or reads from it."""
    assert replay is not None
    alone = replace(replay, urls=(replay.urls[shard],), connect_timeout_s=CONNECT_S, command_timeout_s=ANSWER_S)
    (stats,) = server_stats(alone)
    peers: list[Presence] = []
    if stats.version:
        try:
            peers = presence_on(alone, 0)
        except TwinRLError as error:
            stats = replace(stats, problem=str(error))
    return replace(stats, shard=shard), [replace(peer, shard=shard) for peer in peers]


def _asked(ask: Callable[[str, Credentials], T], address: str | None, credentials: Credentials) -> T | Problem | None:
    if address is None:
        return None
    try:
        return ask(address, credentials)
    except TwinRLError as error:
        return Problem(text=str(error))


def _weights(address: str, credentials: Credentials) -> WeightsReading:
    with open_channel(address, credentials) as channel:
        stub = WeightsStub(channel)  # type: ignore[no-untyped-call]
        try:
            status = stub.Status(pb.WeightsStatusRequest(), timeout=ANSWER_S)
        except grpc.RpcError as error:
            raise unreachable("weights", address, error, ANSWER_S) from error
    now, newest = time.time(), status.newest.number
    return WeightsReading(
        version=newest,
        age_s=max(0.0, now - status.newest.published_unix_s) if newest else 0.0,
        watchers=tuple(
            Watcher(
                name=each.name,
                told=each.told,
                using=each.using,
                behind=max(0, newest - each.using),
                using_s=max(0.0, now - each.using_unix_s) if each.using else 0.0,
            )
            for each in status.watchers
        ),
    )


def _targets(address: str, credentials: Credentials) -> int:
    with closing(GuideClient(address, credentials=credentials, deadline_s=ANSWER_S)) as client:
        return sum(cell.target for cell in client.success_map())
