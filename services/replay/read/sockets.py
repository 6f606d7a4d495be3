"""Sockets to a shard by its url, for readers that do without redis-py; the urls mean what they mean to redis-py."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urlsplit

from redis.connection import parse_url

from services.net import Credentials
from services.replay.settings import ReplaySettings


def open_socket(url: str, settings: ReplaySettings) -> socket.socket:
    """Connected within the settings' deadline, which its next reads and writes have too. Raises OSError.

    rediss:// raises InputError for certificates that are not usable.
    """
    options = _options(url)
    if "path" in options:
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _closed_on_error(local):
            local.settimeout(settings.connect_timeout_s)
            local.connect(options["path"])
        return local
    host = options.get("host", "localhost")
    connection = socket.create_connection((host, options.get("port", 6379)), settings.connect_timeout_s)
    with _closed_on_error(connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if urlsplit(url).scheme == "rediss":
            return tls_context(settings.credentials).wrap_socket(connection, server_hostname=host)
    return connection


def greeting(url: str, credentials: Credentials) -> list[tuple[str, ...]]:
    """The commands that log in and choose the database; each is answered by a status.

    The credentials' token is the password of a rediss:// url that has none.
    """
    options = _options(url)
    if urlsplit(url).scheme == "rediss" and "password" not in options:
        options["password"] = credentials.read_token()
    commands: list[tuple[str, ...]] = []
    if user := options.get("username"):
        commands.append(("AUTH", user, options.get("password") or ""))
    elif password := options.get("password"):
        commands.append(("AUTH", password))
    if database := options.get("db"):
        commands.append(("SELECT", str(database)))
    return commands


def tls_context(credentials: Credentials) -> ssl.SSLContext:
    """The server must be certified by the authority, or by one that this machine trusts where none is given."""
    authority, identity = credentials.read_authority(), credentials.read_identity()
    context = ssl.create_default_context(cadata=None if authority is None else authority.decode())
    if identity is not None and credentials.certificate is not None:
        context.load_cert_chain(credentials.certificate, credentials.key)
    return context


def _options(url: str) -> dict[str, Any]:
    parse: Any = parse_url  # redis-py leaves it untyped
    return cast(dict[str, Any], parse(url))


@contextlib.contextmanager
def _closed_on_error(connection: socket.socket) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.callback(connection.close)
        yield
        stack.pop_all()
