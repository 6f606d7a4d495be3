"""This module asks every service of a cluster once, all at the same time, each with deadlines of its own.

command line: Addresses ───────────┐
settings files of a run: of_run ───┴─► ClusterSettings ─► read_cluster ─► Reading
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc

from protos import weights_pb2 as pb
from protos.errors import InputError, TwinRLError
from protos.settings import from_json
from protos.weights_pb2_grpc import WeightsStub
from services.guide import GuideClient
from services.net import Credentials, open_channel, parse_address, seconds_left, server_seconds_left, unreachable
from services.replay import (
    LeaseReading,
    Presence,
    ReplaySettings,
    ServerStats,
    masked,
    read_lease,
    readers_of,
    server_stats,
)

log = logging.getLogger(__name__)

CONNECT_S, ANSWER_S = 1.0, 1.5
REDIS_PORT = 6379
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Settings name the services of a cluster; None leaves one out."""

    replay: ReplaySettings | None = None
    weights: str | None = None
    """host:port"""
    guide: str | None = None
    """host:port"""
    credentials: Credentials = field(default_factory=Credentials)
    """Credentials for weights and guide."""

    @property
    def empty(self) -> bool:
        """Returns True if no service is named."""
        return not (self.replay or self.weights or self.guide)


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Services to ask, as a command line names them."""

    replay: tuple[str, ...] = field(default=(), repr=False)
    """unix://…, redis://… or rediss://…, once per shard."""
    prefix: str = "twinrl"
    """First part of the replay's keys; a run's is twinrl-<name>."""
    password_file: Path | None = None
    """Holds the password of the user in the urls; by default the credentials' own."""
    weights: str | None = None
    """host:port of the weights service."""
    guide: str | None = None
    """host:port of the guide."""
    credentials: Credentials = field(default_factory=Credentials)
    """Credentials for services beyond this machine."""

    def settings(self) -> ClusterSettings:
        """Returns the settings of the cluster. Raises InputError for a url or a file that will not do."""
        logged_in = self.credentials
        if self.password_file is not None:
            logged_in = replace(logged_in, password=self.password_file)
        replay = ReplaySettings(urls=self.replay, prefix=self.prefix, credentials=logged_in) if self.replay else None
        for url in self.replay:
            if self.password_file is not None and urlsplit(url).password is not None:
                raise InputError(f"--password-file {self.password_file}: {masked(url)} has a password of its own")
        if replay is not None:
            replay.login(0)  # a file that will not do is named here
        return ClusterSettings(
            replay=replay,
            weights=self.weights,
            guide=self.guide,
            credentials=self.credentials,
        )


def of_run(folder: Path) -> ClusterSettings:
    """Returns the services in a run's newest settings files; those that it has not started are left out."""
    found: dict[str, Any] = {}
    files = sorted((folder / "settings").glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in files:
        try:
            settings = json.loads(path.read_text())
        except (OSError, ValueError):  # half written: the next reading finds it whole
            continue
        found |= {name: settings[name] for name in ("replay", "weights", "guide", "credentials") if settings.get(name)}
    if "replay" in found:
        found["replay"] = from_json(ReplaySettings, found["replay"], "replay")
    if "credentials" in found:
        found["credentials"] = from_json(Credentials, found["credentials"], "credentials")
    return ClusterSettings(**found)


def overlaid(run: ClusterSettings, given: ClusterSettings) -> ClusterSettings:
    """Returns the run's services, replaced by those that were named on the command line."""
    if given.empty:
        return run
    return ClusterSettings(
        replay=given.replay or run.replay,
        weights=given.weights or run.weights,
        guide=given.guide or run.guide,
        credentials=given.credentials,
    )


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A problem is the reason for which a service did not answer, in one line."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """A watcher is one subscriber of the weights service."""

    name: str
    told: int
    """Newest version announced to it."""
    using: int
    """Version it acts with, 0 before its first report."""
    behind: int
    """Versions published since the one it uses."""
    using_s: float
    """Seconds since it took that version into use, 0 before its first report."""


@dataclass(frozen=True, kw_only=True)
class WeightsReading:
    """The answer of the weights service."""

    version: int
    """0 before the first."""
    age_s: float
    """Seconds since the newest version was published, 0 before the first."""
    watchers: tuple[Watcher, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A reading holds the answers of a cluster at one moment; None for a service that was left out."""

    t: float
    """Unix seconds."""
    shards: tuple[ServerStats, ...]
    weights: WeightsReading | Problem | None
    targets: int | Problem | None
    """Cells that the guide aims at."""
    lease: LeaseReading | None = None
    """The learner that leads; None without one, and while the first shard does not answer."""
    certificates: Mapping[str, float] = field(default_factory=dict)
    """Seconds until certificates expire: of each server by name, and our own."""

    @property
    def peers(self) -> list[Presence]:
        """Returns every presence on the shards that answer."""
        return [peer for stats in self.shards for peer in stats.peers]

    @property
    def writers(self) -> list[Presence]:
        """Returns the writers of the shards that answer."""
        return [peer for peer in self.peers if peer.kind == "writer"]

    @property
    def readers(self) -> list[Presence]:
        """Returns each reader once, with its newest presence."""
        return readers_of(self.shards)


def read_cluster(settings: ClusterSettings) -> Reading:
    """Asks every service, and returns within a few seconds; one that does not answer is a problem in the reading."""
    with ThreadPoolExecutor(5) as pool:
        lease = pool.submit(_lease, settings.replay)
        shards = pool.submit(_shards, settings.replay)
        weights = pool.submit(_asked, _weights, settings.weights, settings.credentials)
        targets = pool.submit(_asked, _targets, settings.guide, settings.credentials)
        certificates = pool.submit(_certificates, settings)
    return Reading(
        t=time.time(),
        shards=shards.result(),
        weights=weights.result(),
        targets=targets.result(),
        lease=lease.result(),
        certificates=certificates.result(),
    )


def _certificates(settings: ClusterSettings) -> dict[str, float]:
    """Returns the seconds that certificates are good for; servers that show none are left out."""
    servers: dict[str, tuple[str, int]] = {}
    for name, address in (("weights", settings.weights), ("guide", settings.guide)):
        if address is not None:
            servers[name] = parse_address(address)
    for shard, url in enumerate(settings.replay.urls if settings.replay is not None else ()):
        parts = urlsplit(url)
        if parts.scheme == "rediss" and parts.hostname is not None:
            servers[f"shard {shard}"] = parts.hostname, parts.port or REDIS_PORT
    left = {
        name: server_seconds_left(host, port, settings.credentials, timeout_s=CONNECT_S)
        for name, (host, port) in servers.items()
    }
    try:
        left["this monitor"] = seconds_left(settings.credentials)
    except InputError as error:  # the other answers say so as well
        log.warning("%s", error)
    return {name: seconds for name, seconds in left.items() if seconds is not None}


def _shards(replay: ReplaySettings | None) -> tuple[ServerStats, ...]:
    return () if replay is None else tuple(server_stats(_quick(replay)))


def _lease(replay: ReplaySettings | None) -> LeaseReading | None:
    if replay is None:
        return None
    try:
        return read_lease(_quick(replay))
    except TwinRLError as error:  # the shard's own answer says so as well
        log.debug("no lease is read: %s", error)
        return None


def _quick(replay: ReplaySettings) -> ReplaySettings:
    return replace(replay, connect_timeout_s=CONNECT_S, command_timeout_s=ANSWER_S)


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
