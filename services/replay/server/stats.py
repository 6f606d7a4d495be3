"""This module asks the replay's servers what they hold, how loaded they are and who uses them; and empties a buffer.

server_stats ─► ServerStats of each shard ─► replay_samples (Prometheus, docs/metrics.md)
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from protos.errors import InputError, Unreachable
from protos.schema import BUFFERS, Buffer
from services.replay.connection import ServerVersion, connect, reaching
from services.replay.presence import Presence, presence_on
from services.replay.scripts import clear
from services.replay.settings import Keys, ReplaySettings, masked
from services.telemetry import Sample

WRITER = {
    "transitions": "writer_transitions_total",
    "segments": "writer_segments_total",
    "dropped": "writer_dropped_total",
    "failures": "writer_failures_total",
    "unsent": "writer_unsent_segments",
    "oldest_unsent_s": "writer_oldest_unsent_seconds",
    "spool_bytes": "writer_spool_bytes",
    "spool_limit_bytes": "writer_spool_limit_bytes",
    "connected": "writer_connected",
    "waiting": "writer_waiting",
    "certificate_left_s": "writer_certificate_left_seconds",
}
READER = {
    "segments": "reader_segments_total",
    "episodes": "reader_episodes_total",
    "overwritten": "reader_overwritten_total",
    "missed": "reader_missed_total",
    "corrupt": "reader_corrupt_total",
    "failures": "reader_failures_total",
    "transitions_per_s": "reader_transitions_per_second",
    "lag_transitions": "reader_lag_transitions",
    "shards_away": "reader_shards_away",
    "memory_bytes": "reader_memory_bytes",
    "certificate_left_s": "reader_certificate_left_seconds",
}
"""Names of a presence's counts and of the samples made of them."""


@dataclass(frozen=True, kw_only=True)
class BufferStats:
    """The content of one buffer on one shard."""

    segments: int
    bytes: int
    capacity_bytes: int
    """Limit set by its writers; 0 before the first segment."""
    transitions: int
    """Ever committed."""


@dataclass(frozen=True, kw_only=True)
class ServerStats:
    """The state of one shard; where it does not answer, all but its name and `problem` is empty."""

    shard: int
    url: str
    """The url without user and password."""
    problem: str = ""
    """Reason for which it does not answer or cannot keep its data, in one line."""
    version: str = ""
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    """maxmemory; 0 means no limit."""
    clients: int = 0
    commands_per_s: float = 0.0
    logged: bool = False
    """It keeps a log of commands on its disk, so that a restart brings the data back."""
    buffers: Mapping[Buffer, BufferStats] = field(default_factory=dict)
    peers: tuple[Presence, ...] = ()
    """Writers and readers, also those that were lost in the last ten minutes."""


def server_stats(settings: ReplaySettings) -> list[ServerStats]:
    """Asks every shard, all at the same time; one that does not answer within its deadlines has a `problem`."""
    with ThreadPoolExecutor(settings.shards) as pool:
        return list(pool.map(lambda shard: _ask(settings, shard), range(settings.shards)))


def totals(settings: ReplaySettings) -> dict[Buffer, int]:
    """Sums the transitions ever committed to each buffer over all shards. Raises Unreachable."""
    found = dict.fromkeys(BUFFERS, 0)
    for shard in range(settings.shards):
        with reaching(settings, shard), closing(connect(settings, shard)) as client:
            for buffer in BUFFERS:
                counters = Keys(settings.prefix, buffer).counters
                found[buffer] += int(client.execute_command("HGET", counters, "transitions") or 0)
    return found


def delete_buffer(settings: ReplaySettings, buffer: Buffer) -> int:
    """Empties a buffer on all shards and lifts its allowance; returns how many segments it had. Raises Unreachable.

    Writers go on with their next segment; readers keep what they have read.
    """
    keys, segments = Keys(settings.prefix, buffer), 0
    for shard in range(settings.shards):
        with reaching(settings, shard), closing(connect(settings, shard)) as client:
            segments += clear(client, keys)
    return segments


def replay_samples(shards: Sequence[ServerStats]) -> list[Sample]:
    """Makes Prometheus samples of shards, buffers, writers and readers, labelled with their names."""
    readers = readers_of(shards)
    return [
        *(sample for stats in shards for sample in _shard_samples(stats)),
        *(sample for peer in readers for sample in _peer_samples(peer, READER, {"reader": peer.name})),
    ]


def readers_of(shards: Sequence[ServerStats]) -> list[Presence]:
    """Returns the newest presence of each reader by name: a reader sends the same to every shard."""
    found = [peer for stats in shards for peer in stats.peers if peer.kind == "reader"]
    newest = {peer.name: peer for peer in sorted(found, key=lambda peer: -peer.age_s)}
    return [newest[name] for name in sorted(newest)]


def _ask(settings: ReplaySettings, shard: int) -> ServerStats:
    url = masked(settings.urls[shard])
    problem, peers = "", list[Presence]()
    try:
        with reaching(settings, shard), closing(connect(settings, shard)) as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.execute_command("INFO")
            for buffer in BUFFERS:
                pipeline.execute_command("HGETALL", Keys(settings.prefix, buffer).counters)
            info, *counters = pipeline.execute()
    except (Unreachable, InputError) as error:
        return ServerStats(shard=shard, url=url, problem=str(error))
    try:
        peers = presence_on(settings, shard)
    except (Unreachable, InputError) as error:
        problem = str(error)
    return ServerStats(
        shard=shard,
        url=url,
        problem=problem or _problem(info),
        version=ServerVersion.of(info).name,
        memory_bytes=int(info["used_memory"]),
        memory_limit_bytes=int(info.get("maxmemory", 0)),
        clients=int(info["connected_clients"]),
        commands_per_s=float(info["instantaneous_ops_per_sec"]),
        logged=bool(int(info.get("aof_enabled", 0))),
        buffers={buffer: _buffer(found) for buffer, found in zip(BUFFERS, counters, strict=True)},
        peers=tuple(peers),
    )


def _problem(info: Mapping[str, Any]) -> str:
    if info.get("aof_last_write_status", "ok") != "ok":
        return "its log of commands cannot be written: see its disk"
    limit = int(info.get("maxmemory", 0))
    if limit and int(info["used_memory"]) >= limit:
        return f"replay is full: {info['used_memory']} bytes, maxmemory is {limit}"
    return ""


def _buffer(counters: Mapping[Any, Any]) -> BufferStats:
    found = {_text(name): int(value) for name, value in counters.items()}
    return BufferStats(
        segments=max(0, found.get("head", 0) - found.get("tail", 1) + 1),
        bytes=found.get("bytes", 0),
        capacity_bytes=found.get("capacity", 0),
        transitions=found.get("transitions", 0),
    )


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _shard_samples(stats: ServerStats) -> Iterator[Sample]:
    labels = {"shard": str(stats.shard)}
    yield Sample(name="replay_up", value=float(bool(stats.version)), labels=labels)
    if not stats.version:
        return
    yield Sample(name="replay_memory_bytes", value=stats.memory_bytes, labels=labels)
    yield Sample(name="replay_memory_limit_bytes", value=stats.memory_limit_bytes, labels=labels)
    yield Sample(name="replay_clients", value=stats.clients, labels=labels)
    yield Sample(name="replay_commands_per_second", value=stats.commands_per_s, labels=labels)
    for buffer, held in stats.buffers.items():
        of_buffer = labels | {"buffer": buffer}
        yield Sample(name="replay_transitions_total", value=held.transitions, labels=of_buffer)
        yield Sample(name="replay_segments", value=held.segments, labels=of_buffer)
        yield Sample(name="replay_bytes", value=held.bytes, labels=of_buffer)
        yield Sample(name="replay_capacity_bytes", value=held.capacity_bytes, labels=of_buffer)
    for peer in stats.peers:
        if peer.kind == "writer":
            yield from _peer_samples(peer, WRITER, labels | {"actor": peer.name})


def _peer_samples(peer: Presence, names: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[Sample]:
    yield Sample(name=f"{peer.kind}_up", value=float(not peer.is_lost), labels=labels)
    yield Sample(name=f"{peer.kind}_silent_seconds", value=peer.age_s, labels=labels)
    for told, name in names.items():
        if told in peer.stats:
            yield Sample(name=name, value=peer.stats[told], labels=labels)
