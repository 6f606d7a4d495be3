"""How the replay's servers are: for status pages and metrics, with one cheap question per shard."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from protos.errors import InputError, Unreachable
from protos.schema import BUFFERS, Buffer
from services.replay.connection import Keys, ReplaySettings, connect, masked, reaching
from services.replay.handshake import ServerVersion


@dataclass(frozen=True, kw_only=True)
class BufferStats:
    """What one shard holds of one buffer."""

    segments: int
    bytes: int
    capacity_bytes: int
    """As its writers have it; 0 before the first segment."""
    transitions: int
    """Ever committed."""


@dataclass(frozen=True, kw_only=True)
class ServerStats:
    """One shard; with a problem, the rest is empty."""

    shard: int
    url: str
    """Without user and password."""
    problem: str = ""
    """Why it does not answer or does not keep its promises, in one line."""
    version: str = ""
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    """maxmemory; 0 means no limit."""
    clients: int = 0
    commands_per_s: float = 0.0
    logged: bool = False
    """It keeps a log of commands on its disk, so that a restart brings the data back."""
    buffers: Mapping[Buffer, BufferStats] = field(default_factory=dict)


def server_stats(settings: ReplaySettings) -> list[ServerStats]:
    """Every shard, asked side by side; one that does not answer within its deadlines says so in `problem`."""
    with ThreadPoolExecutor(settings.shards) as pool:
        return list(pool.map(lambda shard: _ask(settings, shard), range(settings.shards)))


def _ask(settings: ReplaySettings, shard: int) -> ServerStats:
    url = masked(settings.urls[shard])
    try:
        with reaching(settings, shard), closing(connect(settings, shard)) as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.execute_command("INFO")
            for buffer in BUFFERS:
                pipeline.execute_command("HGETALL", Keys(settings.prefix, buffer).counters)
            info, *counters = pipeline.execute()
    except (Unreachable, InputError) as error:
        return ServerStats(shard=shard, url=url, problem=str(error))
    return ServerStats(
        shard=shard,
        url=url,
        problem=_problem(info),
        version=ServerVersion.of(info).name,
        memory_bytes=int(info["used_memory"]),
        memory_limit_bytes=int(info.get("maxmemory", 0)),
        clients=int(info["connected_clients"]),
        commands_per_s=float(info["instantaneous_ops_per_sec"]),
        logged=bool(int(info.get("aof_enabled", 0))),
        buffers={buffer: _buffer(found) for buffer, found in zip(BUFFERS, counters, strict=True)},
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
