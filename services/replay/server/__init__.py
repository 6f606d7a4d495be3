"""This package serves a replay with an embedded Valkey or Redis, and tells what any server of a replay holds.

EmbeddedServer, memory_for      starts a server on a directory; the memory that its buffers need
server_stats, totals, replay_samples   asks the shards; makes Prometheus samples of their answers
delete_buffer                   empties a buffer
users_text                      the users of a run, as a Redis ACL file
"""

from services.replay.server.config import Durability, ServerConfig, memory_for
from services.replay.server.server import EmbeddedServer
from services.replay.server.stats import (
    BufferStats,
    ServerStats,
    delete_buffer,
    readers_of,
    replay_samples,
    server_stats,
    totals,
)
from services.replay.server.users import users_text

__all__ = [
    "BufferStats",
    "Durability",
    "EmbeddedServer",
    "ServerConfig",
    "ServerStats",
    "delete_buffer",
    "memory_for",
    "readers_of",
    "replay_samples",
    "server_stats",
    "totals",
    "users_text",
]
