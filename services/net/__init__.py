"""This package holds what the services share on the network: addresses, TLS, tokens, deadlines.

    Credentials, LOOPBACK                            files of token, authority, certificate and key
    read_secret, weakness, Reread                    files with secrets; files that are read again when they change
    seconds_left, server_seconds_left                how long certificates are still good
    Role, RIGHTS, caller                             what each role may do; the role of the client being answered
    open_channel, unreachable, describe, Backoff     a gRPC client's connection, its errors and its retries
    serve                                            a gRPC service until SIGTERM
    start_own_ray, ray_environment                   a Ray of this process's own, behind a token
    parse_address, is_loopback, free_port            addresses, host:port

`services.net.certificates` makes the certificates of a lab; it is imported where they are made.
"""

from services.net.admission import caller
from services.net.credentials import LOOPBACK, Credentials
from services.net.expiry import seconds_left, server_seconds_left
from services.net.own_ray import ray_environment, start_own_ray
from services.net.rereading import Reread
from services.net.roles import RIGHTS, Grant, Role
from services.net.secret_files import read_secret, read_secret_bytes, weakness
from services.net.transport import (
    CLIENT_OPTIONS,
    MAX_MESSAGE_BYTES,
    SERVER_OPTIONS,
    Backoff,
    describe,
    free_port,
    is_loopback,
    open_channel,
    parse_address,
    serve,
    unreachable,
)

__all__ = [
    "CLIENT_OPTIONS",
    "LOOPBACK",
    "MAX_MESSAGE_BYTES",
    "RIGHTS",
    "SERVER_OPTIONS",
    "Backoff",
    "Credentials",
    "Grant",
    "Reread",
    "Role",
    "caller",
    "describe",
    "free_port",
    "is_loopback",
    "open_channel",
    "parse_address",
    "ray_environment",
    "read_secret",
    "read_secret_bytes",
    "seconds_left",
    "serve",
    "server_seconds_left",
    "start_own_ray",
    "unreachable",
    "weakness",
]
