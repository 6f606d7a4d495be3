"""The replay carries transitions from actors to the learner, exactly once, through any Redis or Valkey from 6.2 on.

    actor ─► ReplayWriter ─► spool on disk ─► commit script ─► ring of segments + index stream per buffer
                                                                      │
    learner ◄─ Batch ◄─ mirror in memory ◄─ ReplayReader ◄────────────┘

    ReplaySettings, masked, shard_of    where the replay is, how much it keeps
    ReplayWriter                        add(segment, buffers), flush, wait_for_allowance, waiting_for, stats, close
    ReplayReader, ReaderSettings        start or poll, counts, received, sample, allow, stats, position, restore, close
    Batch, Prefetcher                   what a reader draws; drawing in threads of its own
    read_episodes, newest, find_schema  everything that is there now, once
    EmbeddedServer, ServerConfig        a Valkey of our own; also `python -m services.replay --directory D`
    server_stats, ServerStats           each server's memory, load, rings, writers and readers, or its problem
    totals, delete_buffer, presence     transitions per buffer; emptying one; the writers and readers alive
    users_text, user_of                 the users of a run for a server, one per role; how each is called
    Lease, read_lease                   one learner at a time leads a run; who does
    connect, reaching, Keys             a plain client and the keys of a buffer, for tools beside writers and readers

The servers are a durable log and nothing more: they keep segments (protos/codec.py) in arrival order and drop the
oldest above a byte budget. Which transitions are drawn how often is decided in the learner's memory. With several
servers an actor's name decides to which one it writes; a reader follows them all.
"""

from protos.episode import Episode
from services.replay.connection import connect, reaching
from services.replay.lease import Lease, LeaseReading, read_lease
from services.replay.presence import Presence, presence
from services.replay.read import (
    SOURCES,
    Batch,
    Cells,
    Field,
    Position,
    Prefetcher,
    Priority,
    ReaderSettings,
    ReplayReader,
    Restored,
    RestoreSettings,
    Strategy,
    Uniform,
    find_schema,
    newest,
    read_episodes,
)
from services.replay.server import (
    BufferStats,
    Durability,
    EmbeddedServer,
    ServerConfig,
    ServerStats,
    delete_buffer,
    memory_for,
    readers_of,
    replay_samples,
    server_stats,
    totals,
    users_text,
)
from services.replay.settings import Keys, ReplaySettings, masked, shard_of, user_of
from services.replay.write import ReplayWriter

__all__ = [
    "SOURCES",
    "Batch",
    "BufferStats",
    "Cells",
    "Durability",
    "EmbeddedServer",
    "Episode",
    "Field",
    "Keys",
    "Lease",
    "LeaseReading",
    "Position",
    "Prefetcher",
    "Presence",
    "Priority",
    "ReaderSettings",
    "ReplayReader",
    "ReplaySettings",
    "ReplayWriter",
    "RestoreSettings",
    "Restored",
    "ServerConfig",
    "ServerStats",
    "Strategy",
    "Uniform",
    "connect",
    "delete_buffer",
    "find_schema",
    "masked",
    "memory_for",
    "newest",
    "presence",
    "reaching",
    "read_episodes",
    "read_lease",
    "readers_of",
    "replay_samples",
    "server_stats",
    "shard_of",
    "totals",
    "user_of",
    "users_text",
]
