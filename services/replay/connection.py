"""This module makes every Redis client of the replay, and greets the server behind it before any data flows.

    connect ─► client ─► greet: is the server able to hold a replay, and is its observation layout ours?

Every client has a deadline to connect and one per answer, and never retries by itself: its user decides what a broken
connection means for the data. `reaching` turns what redis-py raises into one line.
"""

import logging
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from protos.errors import InputError, SchemaMismatch, TwinRLError, Unreachable
from protos.schema import BUFFERS, Schema
from services.net import Credentials
from services.replay.settings import ReplaySettings, masked

log = logging.getLogger(__name__)

OLDEST_VERSION = (6, 2)
CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError)
"""Errors raised when the other side has closed the connection."""


class Commands(Protocol):
    """Types a client or a pipeline, which redis-py leaves untyped."""

    def execute_command(self, *args: Any) -> Any: ...


class Pipeline(Commands, Protocol):
    """Types a pipeline: commands that share a round trip."""

    def execute(self, raise_on_error: bool = True) -> list[Any]: ...


class Client(Commands, Protocol):
    """Types a Redis client."""

    connection_pool: Any
    connection: Any
    """The connection of a `single` client."""

    def pipeline(self, transaction: Any = True) -> Pipeline: ...
    def close(self) -> None: ...


def connect(settings: ReplaySettings, shard: int = 0, *, single: bool = False) -> Client:
    """Makes a client of one shard, which connects at its first command. Wrap its use in `reaching`.

    A `single` client connects at once and has one connection, whose loss is always an error of the next command; others
    may connect again unnoticed when the server was restarted. Raises InputError for credentials that cannot be read.
    """
    url = settings.urls[shard]
    client = redis.Redis.from_url(
        _without_login(url),
        credential_provider=None if settings.login(shard) == (None, None) else _Login(settings, shard),
        single_connection_client=single,
        socket_connect_timeout=settings.connect_timeout_s,
        socket_timeout=settings.command_timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        **(_tls_options(settings.credentials) if urlsplit(url).scheme == "rediss" else {}),
    )
    return cast(Client, client)


def _tls_options(credentials: Credentials) -> dict[str, Any]:
    credentials.read_authority()  # a damaged or expired file is named here, not by the TLS library
    credentials.read_identity()
    files = {
        "ssl_ca_certs": credentials.authority,
        "ssl_certfile": credentials.certificate,
        "ssl_keyfile": credentials.key,
    }
    return {name: str(path) for name, path in files.items() if path is not None}


class _Login(redis.CredentialProvider):
    """Reads user and password whenever a connection is made, so that renewed ones need no restart."""

    def __init__(self, settings: ReplaySettings, shard: int) -> None:
        self._settings, self._shard = settings, shard

    def get_credentials(self) -> tuple[str, str]:
        user, password = self._settings.login(self._shard)
        return user or "default", password or ""


def _without_login(url: str) -> str:
    """Returns the url without user and password; `urlunsplit` would leave "//" out where no host follows."""
    return url.replace(f"{urlsplit(url).netloc.rpartition('@')[0]}@", "", 1)


@contextmanager
def reaching(settings: ReplaySettings, shard: int = 0) -> Iterator[None]:
    """Turns what redis-py raises into one line: `InputError` for refused credentials, else `Unreachable`."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        if isinstance(error, Unreachable):
            raise
        raise _explained(settings, shard, error) from error


def _explained(settings: ReplaySettings, shard: int, error: Exception) -> TwinRLError:
    url = masked(settings.urls[shard])
    if isinstance(error, redis.exceptions.NoPermissionError) or "ACL failure in script" in str(error):
        return InputError(f"replay at {url}: the user {_user(settings, shard)} may not do this: {_line(error)}")
    if isinstance(error, redis.AuthenticationError):
        refused = f"replay at {url} refused the user or password: {_line(error)}"
        return InputError(f"{refused} (user {_user(settings, shard)})")
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return Unreachable(f"replay is full: {url} is at its maxmemory; give it more, or its buffers smaller budgets")
    if isinstance(error, redis.ResponseError):
        return Unreachable(f"replay at {url} refused a command: {_line(error)}")
    causes = list(_causes(error))
    closed = any(isinstance(cause, CLOSED) for cause in causes) or "closed by server" in str(error)
    if not closed and (refusal := next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)):
        return InputError(f"replay at {url}: TLS refused ({_line(refusal)}); check authority, certificate and key")
    hint = "; a server closes the connection when it does not accept the client's certificate" if closed else ""
    return Unreachable(
        f"replay at {url} did not answer (deadlines: connect {settings.connect_timeout_s:g} s, "
        f"answer {settings.command_timeout_s:g} s): {_line(error)}{hint if url.startswith('rediss') else ''}"
    )


def _user(settings: ReplaySettings, shard: int) -> str:
    return settings.login(shard)[0] or "default"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Gives the error, then those that redis-py wrapped in it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


@dataclass(frozen=True)
class ServerVersion:
    """A version is a server's own name and number, and the Redis version that it is compatible with."""

    name: str
    redis: tuple[int, ...]

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "ServerVersion":
        """Reads the answer to INFO."""
        redis = str(info.get("redis_version", "0"))
        valkey = info.get("valkey_version")
        name = f"Redis {redis}" if valkey is None else f"Valkey {valkey}"
        return cls(name, tuple(int(number) for number in re.findall(r"\d+", redis)))


def greet(client: Client, settings: ReplaySettings, schema: Schema, *, shard: int = 0, claim: bool) -> None:
    """Checks the server behind a new connection; call it inside `reaching`.

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
        client.execute_command("SETNX", key, schema.hash)
        found = client.execute_command("GETRANGE", key, 0, 64)
    if found and found != schema.hash.encode():
        raise SchemaMismatch(
            f"replay at {url} holds data of schema {found.decode(errors='replace')}, this program has {schema.hash} "
            f"(side {schema.side_px} px, wrist {schema.wrist_px} px): use the same cameras, or another prefix than "
            f"{settings.prefix!r}"
        )


def schema_key(settings: ReplaySettings) -> str:
    """Names the string key that holds the hash of the schema of this replay's segments."""
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
