"""Where the replay is, and the one place that makes Redis clients.

Every client has a deadline to connect and one per answer, and never retries by itself: who talks to the replay decides
what a broken connection means for the data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from protos.codec import check_name
from protos.errors import InputError, Unreachable
from protos.schema import BUFFERS, Buffer
from services.credentials import Credentials

SCHEMES = ("unix", "redis", "rediss")


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """Where the replay is and how much it keeps."""

    urls: tuple[str, ...] = field(repr=False)
    """One per shard: unix:///path/to/socket, redis://host:port or rediss://… (TLS); may hold a user and password."""
    prefix: str = "twinrl"
    """First part of every key, so that several runs can share a server."""
    capacity_bytes: int = 2 << 30
    """Most bytes of segments the server keeps per buffer; the oldest go first."""
    spool_bytes: int = 1 << 30
    """Most bytes an actor keeps on disk for a server that does not answer; above it new segments are dropped."""
    credentials: Credentials = field(default_factory=Credentials)
    """Certificates for rediss://; user and password are in the urls."""
    connect_timeout_s: float = 5.0
    command_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        if not self.urls:
            raise InputError("replay urls: name at least one server")
        for url in self.urls:
            if urlsplit(url).scheme not in SCHEMES:
                choices = ", ".join(f"{scheme}://" for scheme in SCHEMES)
                raise InputError(f"replay url {masked(url)!r}: begin with one of {choices}")
        check_name("prefix", self.prefix)
        for name in ("capacity_bytes", "spool_bytes", "connect_timeout_s", "command_timeout_s"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)}: must be above 0")


@dataclass(frozen=True)
class Keys:
    """The keys of one buffer. One hash tag, so that they share a node of a cluster and one script may touch them."""

    prefix: str
    buffer: Buffer

    def __post_init__(self) -> None:
        if self.buffer not in BUFFERS:
            raise InputError(f"buffer {self.buffer!r}: choose one of {', '.join(BUFFERS)}")

    def _key(self, name: str) -> str:
        return f"{{{self.prefix}:{self.buffer}}}:{name}"

    @property
    def slots(self) -> str:
        """Prefix of the ring's slots; slot n is the string key `slots` + n."""
        return self._key("segment:")

    @property
    def index(self) -> str:
        """Stream: one entry per segment in the ring."""
        return self._key("index")

    @property
    def seen(self) -> str:
        """Hash: "actor/incarnation" -> the last seq committed."""
        return self._key("seen")

    @property
    def counters(self) -> str:
        """Hash: head and tail (newest and oldest slot), bytes held, transitions ever."""
        return self._key("counters")

    @property
    def allowance(self) -> str:
        """String: how many transitions writers may have added in total; missing = no limit."""
        return self._key("allowance")

    @property
    def tick(self) -> str:
        """String that a writer touches to learn how far the log on disk has come."""
        return self._key("tick")

    def stage(self, writer: str, seq: int) -> str:
        """Where a segment waits for its commit."""
        return self._key(f"stage:{writer}:{seq}")


def masked(url: str) -> str:
    """The url without its user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Commands(Protocol):
    """A client or a pipeline; what redis-py leaves untyped."""

    def execute_command(self, *args: Any) -> Any: ...


class Pipeline(Commands, Protocol):
    """Commands that share a round trip."""

    def execute(self, raise_on_error: bool = True) -> list[Any]: ...


class Client(Commands, Protocol):
    """A Redis client."""

    connection_pool: Any

    def pipeline(self, transaction: Any = True) -> Pipeline: ...
    def close(self) -> None: ...


def connect(settings: ReplaySettings) -> Client:
    """A client; it connects at its first command. Wrap its use in `reaching`."""
    client = redis.Redis.from_url(
        settings.urls[0],
        socket_connect_timeout=settings.connect_timeout_s,
        socket_timeout=settings.command_timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
    return cast(Client, client)


@contextmanager
def reaching(settings: ReplaySettings) -> Iterator[None]:
    """Turns what redis-py raises into one line: `InputError` for a refused password, else `Unreachable`."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise InputError(f"replay at {masked(settings.urls[0])} refused the user or password: {error}") from error
    except (redis.RedisError, OSError) as error:
        raise Unreachable(
            f"replay at {masked(settings.urls[0])} did not answer (deadlines: "
            f"connect {settings.connect_timeout_s:g} s, answer {settings.command_timeout_s:g} s): {error}"
        ) from error
