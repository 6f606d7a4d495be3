"""This module makes readings of a cluster, with the changes that a test wants."""

from dataclasses import replace

from services.monitor import Reading, Watcher, WeightsReading
from services.replay import BufferStats, Presence, ServerStats

GB = 10**9


def shard(number: int = 0, **changes: object) -> ServerStats:
    twin = BufferStats(segments=12_000, bytes=GB, capacity_bytes=GB, transitions=190_000)
    empty = BufferStats(segments=0, bytes=0, capacity_bytes=0, transitions=0)
    fields = {
        "shard": number,
        "url": f"rediss://10.0.0.{3 + number}:6379",
        "version": "Valkey 9.1.2",
        "memory_bytes": 3 * GB,
        "memory_limit_bytes": 6 * GB,
        "clients": 212,
        "commands_per_s": 3100.0,
        "logged": True,
        "buffers": {"twin": twin, "demo": empty},
    }
    return ServerStats(**(fields | changes))


def writer(name: str, *, shard: int = 0, age_s: float = 0.4, pid: int = 7, **stats: float) -> Presence:
    said = {
        "segments": 1_200.0,
        "transitions": 19_200.0,
        "transitions_per_s": 11.5,
        "unsent": 1.0,
        "oldest_unsent_s": 0.0,
        "spool_bytes": 8e6,
        "spool_limit_bytes": 1e9,
        "dropped": 0.0,
        "failures": 0.0,
        "connected": 1.0,
        "waiting": 0.0,
    }
    return Presence(kind="writer", name=name, shard=shard, age_s=age_s, host="node", pid=pid, stats=said | stats)


def reader(name: str = "twin_rl", *, shard: int = 0, age_s: float = 0.3, **stats: float) -> Presence:
    said = {"segments": 9e4, "transitions_per_s": 2_400.0, "lag_transitions": 32.0, "shards": 2.0, "shards_away": 0.0}
    return Presence(kind="reader", name=name, shard=shard, age_s=age_s, host="learner", pid=3, stats=said | stats)


def weights(*using: int, newest: int = 812, using_s: float = 2.0) -> WeightsReading:
    watchers = tuple(
        Watcher(name=f"policy-{i}", told=newest, using=each, behind=newest - each, using_s=using_s)
        for i, each in enumerate(using)
    )
    return WeightsReading(version=newest, age_s=3.0, watchers=watchers)


def reading(t: float = 1_000.0, **changes: object) -> Reading:
    peers = (writer("twin-0"), writer("twin-1", shard=1), reader(shard=0), reader(shard=1, age_s=0.8))
    fields = {"t": t, "shards": (shard(0), shard(1)), "peers": peers, "weights": weights(812), "targets": 4} | changes
    peers = fields.pop("peers")
    shards = (
        replace(each, peers=tuple(peer for peer in peers if peer.shard == each.shard)) for each in fields.pop("shards")
    )
    return Reading(shards=tuple(shards), **fields)
