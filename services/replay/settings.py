"""This module says where the replay is: its servers, the buffers on them and the keys of each buffer.

A replay has one or more servers, its *shards*, which know nothing of each other. An actor writes to one of them, chosen
by its name; a reader follows them all. The keys are the same on every shard.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha1
from urllib.parse import unquote, urlsplit

from protos.errors import InputError
from protos.folders import check_key
from protos.schema import BUFFERS, Buffer
from services.net import Credentials, Role, read_secret, weakness

SCHEMES = ("unix", "redis", "rediss")


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """Settings say where the replay is and how much it keeps."""

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
    """Credentials for rediss://: authority and client certificate; and the password for urls that hold none, whose user
    is the one in the url, else that of the certificate's role."""
    connect_timeout_s: float = 5.0
    command_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        if not self.urls:
            raise InputError("replay urls: name at least one server")
        for url in self.urls:
            if urlsplit(url).scheme not in SCHEMES:
                choices = ", ".join(f"{scheme}://" for scheme in SCHEMES)
                raise InputError(f"replay url {masked(url)!r}: begin with one of {choices}")
            password = urlsplit(url).password
            if password is not None and (problem := weakness(unquote(password))) is not None:
                raise InputError(f"replay url {masked(url)!r}: its password: {problem}")
        check_key("prefix", self.prefix)
        for name in ("capacity_bytes", "spool_bytes", "connect_timeout_s", "command_timeout_s"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)}: must be above 0")
        for buffer, size in self.budgets.items():
            check_buffer(buffer)
            if not size > 0:
                raise InputError(f"budget of {buffer!r}={size}: must be above 0")

    def login(self, shard: int) -> tuple[str | None, str | None]:
        """Returns user and password for a shard, None for one that is not given. Raises InputError for a bad file."""
        parts = urlsplit(self.urls[shard])
        if parts.password is not None or self.credentials.password is None:
            named = None if parts.username is None else unquote(parts.username)
            return named or None, None if parts.password is None else unquote(parts.password)
        named = unquote(parts.username or "")
        role = None if named else self.credentials.role()
        return named or (None if role is None else user_of(self.prefix, role)), read_secret(
            "password", self.credentials.password
        )

    @property
    def shards(self) -> int:
        return len(self.urls)

    def capacity(self, buffer: Buffer) -> int:
        """Returns the most bytes of a buffer's segments on each shard."""
        return max(1, self.budgets.get(buffer, self.capacity_bytes) // self.shards)


def check_buffer(buffer: str) -> None:
    """Raises InputError for a buffer that does not exist."""
    if buffer not in BUFFERS:
        raise InputError(f"buffer {buffer!r}: choose one of {', '.join(BUFFERS)}")


def shard_of(actor: str, shards: int) -> int:
    """Returns the shard that an actor writes to: the same in every process and every run."""
    return int.from_bytes(sha1(actor.encode(), usedforsecurity=False).digest()[:8]) % shards


class Keys:
    """Names the keys of one buffer on one shard; one hash tag makes a script that touches them legal anywhere."""

    def __init__(self, prefix: str, buffer: Buffer) -> None:
        check_buffer(buffer)
        self._tag = f"{{{prefix}:{buffer}}}"
        self.slots = f"{self._tag}:segment:"
        """Prefix of the ring's slots; slot n is the string key `slots` + n."""
        self.index = f"{self._tag}:index"
        """Stream with one entry per segment in the ring."""
        self.seen = f"{self._tag}:seen"
        """Hash "actor/incarnation" -> the last seq committed."""
        self.counters = f"{self._tag}:counters"
        """Hash of head and tail (newest and oldest slot), bytes held, capacity in bytes, transitions ever."""
        self.allowance = f"{self._tag}:allowance"
        """String with the transitions that writers may have added in total; missing = no limit."""

    def stage(self, writer: str, seq: int) -> str:
        """Names the string in which a segment waits for its commit."""
        return f"{self._tag}:stage:{writer}:{seq}"


class LeaseKeys:
    """Names the keys of the learner's lease."""

    def __init__(self, prefix: str) -> None:
        self.holder = f"{prefix}:learner"
        """String with the holder's words; expires unless it is renewed. On the first shard alone."""
        self.number = f"{prefix}:learner:number"
        """String with the number of the newest lease that this shard has seen."""


def user_of(prefix: str, role: Role) -> str:
    """Names the Redis user of a role in the run with this prefix; the administrator is one for all runs."""
    return role.value if role is Role.ADMIN else f"{prefix}.{role.value}"


def masked(url: str) -> str:
    """Returns the url without its user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
