"""Where the replay is, and the one place that makes Redis clients.

A replay has one or more servers, its *shards*, which know nothing of each other. An actor writes to one of them, chosen
by its name; a reader follows them all. The keys are the same on every shard.

Every client has a deadline to connect and one per answer, and never retries by itself: who talks to the replay decides
what a broken connection means for the data.
"""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from protos.codec import check_name
from protos.errors import InputError, TwinRLError, Unreachable
from protos.schema import BUFFERS, Buffer
from services.net.credentials import Credentials

SCHEMES = ("unix", "redis", "rediss")
CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError)
"""What the end of a connection looks like from this side."""


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """Where the replay is and how much it keeps."""

    urls: tuple[str, ...] = field(repr=False)
    """One per shard: unix:///path/to/socket, redis://host:port or rediss://… (TLS); may hold a user and password.

    An actor finds its shard by their number and order, so change them only while no spool holds unsent segments.
    """
    prefix: str = "twinrl"
    """First part of every key, so that several runs can share a server."""
    capacity_bytes: int = 2 << 30
    """Most bytes of segments that one buffer keeps, over all shards; the oldest go first."""
    budgets: Mapping[Buffer, int] = field(default_factory=dict)
    """Buffers with a capacity of their own, as in {"real": 8 << 30}: seldom filled ones can keep everything."""
    spool_bytes: int = 1 << 30
    """Most bytes an actor keeps on disk for a server that does not answer; above it new segments are dropped."""
    credentials: Credentials = field(default_factory=Credentials)
    """For rediss://: authority and client certificate, and the token as password where the url has none."""
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
        for buffer, size in self.budgets.items():
            check_buffer(buffer)
            if not size > 0:
                raise InputError(f"budget of {buffer!r}={size}: must be above 0")

    @property
    def shards(self) -> int:
        return len(self.urls)

    def capacity(self, buffer: Buffer) -> int:
        """Most bytes of a buffer's segments on each shard."""
        return max(1, self.budgets.get(buffer, self.capacity_bytes) // self.shards)


def check_buffer(buffer: str) -> None:
    """Raises InputError for a buffer that does not exist."""
    if buffer not in BUFFERS:
        raise InputError(f"buffer {buffer!r}: choose one of {', '.join(BUFFERS)}")


def shard_of(actor: str, shards: int) -> int:
    """The shard that an actor writes to: the same in every process and every run."""
    return int.from_bytes(sha1(actor.encode(), usedforsecurity=False).digest()[:8]) % shards


@dataclass(frozen=True)
class Keys:
    """The keys of one buffer on one shard. One hash tag, so that a script which touches them is legal anywhere."""

    prefix: str
    buffer: Buffer

    def __post_init__(self) -> None:
        check_buffer(self.buffer)

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
        """Hash: head and tail (newest and oldest slot), bytes held, capacity in bytes, transitions ever."""
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


def connect(settings: ReplaySettings, shard: int = 0) -> Client:
    """A client of one shard; it connects at its first command. Wrap its use in `reaching`.

    Raises InputError for credentials that cannot be read.
    """
    url = settings.urls[shard]
    client = redis.Redis.from_url(
        url,
        socket_connect_timeout=settings.connect_timeout_s,
        socket_timeout=settings.command_timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        **(_tls_options(url, settings.credentials) if urlsplit(url).scheme == "rediss" else {}),
    )
    return cast(Client, client)


def _tls_options(url: str, credentials: Credentials) -> dict[str, Any]:
    credentials.read_authority()  # a damaged or expired file is named here, not by the TLS library
    credentials.read_identity()
    files = {
        "ssl_ca_certs": credentials.authority,
        "ssl_certfile": credentials.certificate,
        "ssl_keyfile": credentials.key,
    }
    options: dict[str, Any] = {name: str(path) for name, path in files.items() if path is not None}
    if credentials.token is not None and not urlsplit(url).password:
        options["password"] = credentials.read_token()
    return options


@contextmanager
def reaching(settings: ReplaySettings, shard: int = 0) -> Iterator[None]:
    """Turns what redis-py raises into one line: `InputError` for refused credentials, else `Unreachable`."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        if isinstance(error, Unreachable):
            raise
        raise _explained(settings, masked(settings.urls[shard]), error) from error


def _explained(settings: ReplaySettings, url: str, error: Exception) -> TwinRLError:
    login = redis.AuthenticationError | redis.exceptions.NoPermissionError
    if isinstance(error, login) or "ACL failure in script" in str(error):
        return InputError(f"replay at {url} refused the user or password: {_line(error)}")
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


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what redis-py wrapped in it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
