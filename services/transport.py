"""How gRPC services listen and how clients reach them: addresses, the shared token, keepalive, deadlines.

    client ── channel (keepalive, token as metadata) ──► TokenCheck ──► service

Everything listens on loopback unless a token file is given. The token is compared in constant time and travels in the
clear: across hosts, run the connection through a tunnel (WireGuard, ssh) until the transport itself is encrypted.
"""

import asyncio
import contextlib
import hmac
import logging
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc

from protos.errors import InputError, TwinRLError, Unreachable
from protos.status import StatusFile
from services.credentials import LOOPBACK, Credentials
from services.durable import write_durably

log = logging.getLogger(__name__)

TOKEN_KEY = "twinrl-token"
_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # by default an unanswered ping keeps a dead connection for a minute
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
CLIENT_OPTIONS = [
    *_KEEPALIVE,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
]
# By default a server answers pings that come more often than every 5 minutes with GOAWAY (gRPC's keepalive guide).
SERVER_OPTIONS = [
    *_KEEPALIVE,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
    ("grpc.so_reuseport", 0),
]


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port" or "[ipv6]:port". Raises InputError."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 65536):
        raise InputError(f"address {address!r}: write host:port with a port from 0 to 65535, as in 127.0.0.1:7070")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def open_channel(address: str, credentials: Credentials = LOOPBACK) -> grpc.Channel:
    """A channel for synchronous clients; every call on it carries the token. Connects when first used."""
    parse_address(address)
    token = credentials.read_token()
    channel = grpc.insecure_channel(address, options=CLIENT_OPTIONS)
    return channel if token is None else grpc.intercept_channel(channel, _TokenCarrier(token))


def unreachable(service: str, address: str, error: grpc.RpcError, deadline_s: float) -> TwinRLError:
    """The error to raise for a failed call: InputError where the service refused it, else Unreachable."""
    refusals = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED)
    if error.code() in refusals:
        return InputError(f"{service} service at {address}: {error.details()}")
    return Unreachable(f"{service} service at {address}: {describe(error)} (deadline {deadline_s:g} s)")


def describe(error: grpc.RpcError) -> str:
    """Status and details of a failed call in one line."""
    status = error.code().name.lower().replace("_", " ")
    details = " ".join((error.details() or "").split())
    return status if details.lower() in ("", status) else f"{status}: {details}"


class Backoff:
    """Seconds to wait before the next attempt: 0.1 doubling to 3, with jitter so that clients do not come in step."""

    def __init__(self) -> None:
        self._next_s = 0.1

    def reset(self) -> None:
        self._next_s = 0.1

    def next_s(self) -> float:
        wait_s, self._next_s = self._next_s, min(self._next_s * 2, 3.0)
        return wait_s * random.uniform(0.5, 1.0)


@dataclass
class _CallDetails(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str]]
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _TokenCarrier(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor
):
    """Adds the token to the metadata of every call."""

    def __init__(self, token: str) -> None:
        self._token = token

    def _call(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), (TOKEN_KEY, self._token)]
        carried = _CallDetails(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
        return continuation(carried, request)

    intercept_unary_unary = _call
    intercept_unary_stream = _call
    intercept_stream_unary = _call


class TokenCheck(grpc.aio.ServerInterceptor):
    """Refuses every call that does not carry the shared token."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._refusal = grpc.unary_unary_rpc_method_handler(self._refuse)

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        given = dict(details.invocation_metadata).get(TOKEN_KEY, "")
        if hmac.compare_digest(str(given).encode(), self._token):
            return await continuation(details)
        return self._refusal

    @staticmethod
    async def _refuse(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the shared token is missing or wrong (credentials.token)")
        return b""


async def serve(
    handler: grpc.GenericRpcHandler,
    *,
    listen: str,
    credentials: Credentials,
    port_file: Path | None,
    summary: Callable[[], tuple[str, dict[str, float]]],
) -> None:
    """Serves until SIGTERM or Ctrl-C, then gives open calls half a second to end.

    `port_file` receives the bound port as text, for launchers that listen on port 0. `summary` says what the service
    does, for the status file. Raises InputError for an address that is taken, and for one beyond loopback without a
    token.
    """
    host, _ = parse_address(listen)
    token = credentials.read_token()
    if token is None and not is_loopback(host):
        raise InputError(
            f"--listen {listen}: other hosts could connect; give --credentials.token (TLS is not built in yet), "
            "or listen on 127.0.0.1"
        )
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[] if token is None else [TokenCheck(token)])
    server.add_generic_rpc_handlers((handler,))
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise InputError(f"--listen {listen}: cannot listen there; is the port taken?") from error
    await server.start()
    if port_file is not None:
        write_durably(port_file, f"{port}\n".encode())
    log.info("listening on %s:%d%s", host, port, "" if token is None else ", token required, not encrypted")
    await _until_stopped(summary)
    await server.stop(grace=0.5)


async def _until_stopped(summary: Callable[[], tuple[str, dict[str, float]]]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    status = StatusFile()
    while not stopping.is_set():
        doing, rates = summary()
        status.write(doing=doing, waiting_for="", **rates)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), timeout=1.0)
