"""What both ends settle with a server before any data flows: that it will do, and that they mean the same bytes."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protos.errors import InputError, SchemaMismatch
from protos.schema import BUFFERS, Schema
from services.replay.connection import Client, ReplaySettings, masked

log = logging.getLogger(__name__)

OLDEST_VERSION = (6, 2)


@dataclass(frozen=True)
class ServerVersion:
    """A server's own name and version, and the Redis version that it is compatible with."""

    name: str
    redis: tuple[int, ...]

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "ServerVersion":
        """From the answer to INFO."""
        redis = str(info.get("redis_version", "0"))
        valkey = info.get("valkey_version")
        name = f"Redis {redis}" if valkey is None else f"Valkey {valkey}"
        return cls(name, tuple(int(number) for number in re.findall(r"\d+", redis)))


def greet(client: Client, settings: ReplaySettings, schema: Schema, *, shard: int = 0, claim: bool) -> None:
    """To be called with every new connection, inside `reaching`.

    The first writer names the schema of the replay (`claim`), every other end compares. Raises InputError for a server
    that cannot serve a replay, SchemaMismatch for one that holds data of another observation layout.
    """
    url = masked(settings.urls[shard])
    info = client.execute_command("INFO")
    _check_server(info, url)
    if claim:
        _check_memory(info, settings, url)
    key = schema_key(settings)
    found = client.execute_command("GETRANGE", key, 0, 64)
    if claim and not found:
        client.execute_command("SET", key, schema.hash, "NX")
        found = client.execute_command("GETRANGE", key, 0, 64)
    if found and found != schema.hash.encode():
        raise SchemaMismatch(
            f"replay at {url} holds data of schema {found.decode(errors='replace')}, this program has {schema.hash} "
            f"(side {schema.side_px} px, wrist {schema.wrist_px} px): use the same cameras, or another prefix than "
            f"{settings.prefix!r}"
        )


def schema_key(settings: ReplaySettings) -> str:
    """String: the hash of the schema that this replay's segments have."""
    return f"{settings.prefix}:schema"


def _check_server(info: Mapping[str, Any], url: str) -> None:
    version = ServerVersion.of(info)
    if version.redis < OLDEST_VERSION:
        raise InputError(f"replay at {url} is {version.name}: Redis 6.2 or Valkey is the oldest that will do")
    if info.get("redis_mode") == "cluster":
        raise InputError(f"replay at {url} is a node of a cluster: name separate servers instead, one url per shard")
    policy = info.get("maxmemory_policy", "noeviction")
    if str(policy).startswith("allkeys"):
        log.warning("replay at %s evicts data by its maxmemory-policy %s: set noeviction", url, policy)


def _check_memory(info: Mapping[str, Any], settings: ReplaySettings, url: str) -> None:
    limit, budgets = int(info.get("maxmemory", 0)), sum(settings.capacity(buffer) for buffer in BUFFERS)
    if 0 < limit < budgets:
        log.warning(
            "replay at %s has a maxmemory of %d bytes for buffers of %d: it will be full before they are; raise it, or "
            "lower capacity_bytes and budgets",
            url,
            limit,
            budgets,
        )
