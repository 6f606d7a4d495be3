"""This module writes the configuration file of an embedded server, readable by its owner only.

It is a file because every user of the machine can read a command line, and the configuration may hold a password.
"""

import os
import socket as sockets
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from protos.errors import InputError
from protos.files import MAX_SOCKET_PATH
from protos.schema import BUFFERS
from services.net import Credentials, Role, free_port, is_loopback, parse_address, read_secret
from services.replay.server.users import read_users
from services.replay.settings import ReplaySettings, user_of

Durability = Literal["everysec", "always", "off"]

OVERHEAD = 1.15
"""Memory per byte of segments: keys, index entries, the allocator's rounding."""
SPARE_BYTES = 256 << 20
"""Memory for the buffers of connections."""
ACL_FILE = "users.acl"
_ADMIN = user_of("", Role.ADMIN)


def memory_for(settings: ReplaySettings) -> int:
    """Returns the bytes of memory with which the rings of one server, each full, take one segment more."""
    budgets = sum(settings.capacity(buffer) for buffer in BUFFERS)
    return int(budgets * OVERHEAD) + SPARE_BYTES


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """A configuration holds the options of an embedded server, beside its directory."""

    socket: Path | None = None
    """Path of the socket; by default valkey.sock in the directory."""
    listen: str | None = None
    """host:port of a TCP port beside the socket; port 0 picks a free one. Beyond 127.0.0.1 it needs credentials."""
    credentials: Credentials = field(default_factory=Credentials)
    """The password is the administrator's, certificate and key switch TLS on, authority demands certified clients."""
    users: tuple[Path, ...] = ()
    """ACL files of runs, as `twinrl certificates` writes them. With users nobody comes in without a name, and the
    password is that of "admin"."""
    memory_bytes: int | None = None
    """Most memory of the server; above it writers wait with their data on disk. By default no limit."""
    durability: Durability = "everysec"
    """Schedule on which the log of commands is forced to disk; "off" keeps none, and a restart begins empty."""

    def __post_init__(self) -> None:
        if self.memory_bytes is not None and self.memory_bytes < 1 << 20:
            raise InputError(f"memory_bytes={self.memory_bytes}: at least {1 << 20}")
        if self.listen is not None:
            _check_exposure(self.listen, self.credentials)
        if self.users and self.credentials.password is None:
            raise InputError(f"ACL file {self.users[0]}: give the administrator's password too (credentials.password)")

    def placed(self, directory: Path) -> "ServerConfig":
        """Returns the configuration with a path for its socket, and with a port that is free now in place of port 0."""
        socket, listen = (self.socket or directory / "valkey.sock").absolute(), self.listen
        if (size := len(os.fsencode(socket))) > MAX_SOCKET_PATH:
            raise InputError(
                f"socket path of {size} bytes, the limit is {MAX_SOCKET_PATH}: give a shorter one, for example under "
                f"/tmp ({socket})"
            )
        if listen is not None:
            host, port = parse_address(listen)
            listen = listen if port else f"{listen.rpartition(':')[0]}:{free_port(host)}"
        return replace(self, socket=socket, listen=listen)

    @property
    def tls(self) -> bool:
        return self.listen is not None and self.credentials.certificate is not None

    @property
    def local_url(self) -> str:
        """Returns the url for processes of this machine and user."""
        return f"unix://{self._password()}{self.socket}"

    @property
    def tcp_url(self) -> str | None:
        """Returns the url for everyone else, None without a port; with TLS a client's credentials hold the password."""
        if self.listen is None:
            return None
        host, port = parse_address(self.listen)
        host = sockets.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"rediss://{host}:{port}" if self.tls else f"redis://{self._password()}{host}:{port}"

    def text(self, directory: Path) -> str:
        """Returns the text of the file. Raises InputError for credentials that cannot be used."""
        lines = [
            ("unixsocket", self.socket),
            ("unixsocketperm", 700),
            ("dir", directory),
            ("save", ""),
            ("appendonly", "no" if self.durability == "off" else "yes"),
            ("appendfsync", "everysec" if self.durability == "off" else self.durability),
            ("auto-aof-rewrite-min-size", "512mb"),
            ("maxmemory", self.memory_bytes or 0),
            ("maxmemory-policy", "noeviction"),
            ("tcp-keepalive", 15),
            ("loglevel", "warning"),
            *self._tcp(),
        ]
        if self.users:
            lines.append(("aclfile", directory / ACL_FILE))
        elif (password := self._read_password()) is not None:
            lines.append(("requirepass", password))
        return "".join(f"{name} {_quoted(value)}\n" for name, value in lines)

    def users_text(self) -> str:
        """Returns the server's own ACL file: the administrator and the runs' users; empty without any.

        Raises InputError for files that will not do.
        """
        password = self._read_password()
        if not self.users or password is None:
            return ""
        admin = f"user {_ADMIN} on #{sha256(password.encode()).hexdigest()} ~* &* +@all"
        return "".join(f"{line}\n" for line in ("user default off", admin, *read_users(self.users).values()))

    def _read_password(self) -> str | None:
        file = self.credentials.password
        return None if file is None else read_secret("password", file)

    def _password(self) -> str:
        password, user = self._read_password(), _ADMIN if self.users else ""
        return "" if password is None else f"{user}:{quote(password, safe='')}@"

    def _tcp(self) -> list[tuple[str, object]]:
        if self.listen is None:
            return [("port", 0)]
        host, port = parse_address(self.listen)
        if not self.tls:
            return [("bind", host), ("port", port)]
        self.credentials.read_authority()
        self.credentials.read_identity()
        return [
            ("bind", host),
            ("port", 0),
            ("tls-port", port),
            ("tls-auth-clients", "no" if self.credentials.authority is None else "yes"),
            ("tls-protocols", "TLSv1.2 TLSv1.3"),
            *self.tls_files().items(),
        ]

    def tls_files(self) -> dict[str, Path]:
        """Returns the files of a TLS port by their options; absolute, as the server changes to its own directory."""
        given = self.credentials
        files = {
            "tls-cert-file": given.certificate,
            "tls-key-file": given.key,
            "tls-ca-cert-file": given.authority,
        }
        return {name: file.absolute() for name, file in files.items() if file is not None} if self.tls else {}


def _check_exposure(listen: str, credentials: Credentials) -> None:
    host, _ = parse_address(listen)
    missing = [name for name in ("password", "certificate", "key") if getattr(credentials, name) is None]
    if not is_loopback(host) and missing:
        raise InputError(
            f"listen={listen}: beyond 127.0.0.1 the replay needs credentials, the administrator's password and a "
            f"certificate with its key for TLS; missing: {', '.join(missing)}"
        )


def _quoted(value: object) -> str:
    """Quotes a value for a line of the file, for any characters."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
