"""The replay: transitions from every actor to the learner, exactly once, through any Redis or Valkey from 6.2 on.

    actor ─► ReplayWriter ─► spool on disk ─► commit script ─► ring of segments + index stream per buffer
                                                                      │
    learner ◄─ Batch ◄─ mirror in memory ◄─ ReplayReader ◄────────────┘

    ReplaySettings      where the replay is, how much it keeps
    EmbeddedServer      a Valkey of our own; also `python -m services.replay --directory D`
    ReplayWriter        add(segment, buffers), flush, wait_for_allowance, waiting_for, stats, close
    ReplayReader        start or poll, counts, received, episodes, sample, allow, stats, position, restore, close
    Episode, Batch      what a reader gives
    read_episodes       everything that is there now, once; newest, find_schema
    totals, delete_buffer
    server_stats        each server's memory, load and rings, or its problem
    presence            which writers and readers are alive, and what they count

The servers are a durable log and nothing more: they keep segments (protos/codec.py) in arrival order and drop the
oldest above a byte budget. Which transitions are drawn how often is decided in the learner's memory. With several
servers an actor's name decides to which one it writes; a reader follows them all.
"""

from protos.episode import Episode
from services.replay.buffers import delete_buffer, totals
from services.replay.connection import ReplaySettings, masked, shard_of
from services.replay.presence import Presence, presence, presence_on
from services.replay.read.batch import Batch
from services.replay.read.once import find_schema, newest, read_episodes
from services.replay.read.position import Position
from services.replay.read.reader import ReplayReader
from services.replay.read.restore import Patience, Restored
from services.replay.server.server import EmbeddedServer
from services.replay.server.stats import BufferStats, ServerStats, server_stats
from services.replay.write.writer import ReplayWriter

__all__ = [
    "Batch",
    "BufferStats",
    "EmbeddedServer",
    "Episode",
    "Patience",
    "Position",
    "Presence",
    "ReplayReader",
    "ReplaySettings",
    "ReplayWriter",
    "Restored",
    "ServerStats",
    "delete_buffer",
    "find_schema",
    "masked",
    "newest",
    "presence",
    "presence_on",
    "read_episodes",
    "server_stats",
    "shard_of",
    "totals",
]
