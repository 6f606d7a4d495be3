"""The replay: transitions from every actor to the learner, exactly once, through any Redis or Valkey from 6.2 on.

    actor ─► ReplayWriter ─► spool on disk ─► commit script ─► ring of segments + index stream per buffer
                                                                      │
    learner ◄─ Batch ◄─ mirror in memory ◄─ ReplayReader ◄────────────┘

    ReplaySettings      where the replay is, how much it keeps
    EmbeddedServer      a Valkey of our own on a unix socket; also `python -m services.replay --directory D`
    ReplayWriter        add(segment, buffers), flush, wait_for_allowance, stats, close
    ReplayReader        start or poll, counts, received, episodes, sample, allow, stats, close
    Episode, Batch      what a reader gives
    totals, delete_buffer

The server is a durable log and nothing more: it keeps segments (protos/codec.py) in arrival order and drops the oldest
above a byte budget. Which transitions are drawn how often is decided in the learner's memory.
"""

from services.replay.buffers import delete_buffer, totals
from services.replay.connection import ReplaySettings, masked
from services.replay.episodes import Episode
from services.replay.mirror import Batch
from services.replay.reader import ReplayReader
from services.replay.server import EmbeddedServer
from services.replay.writer import ReplayWriter

__all__ = [
    "Batch",
    "EmbeddedServer",
    "Episode",
    "ReplayReader",
    "ReplaySettings",
    "ReplayWriter",
    "delete_buffer",
    "masked",
    "totals",
]
