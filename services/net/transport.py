"""This module lets gRPC services listen and clients reach them: addresses, encryption, keepalive, limits, deadlines.

    client ── channel (retry, TLS, certificate, token as metadata, keepalive) ──► TLS ──► Admission ──► service

Beyond loopback a service listens only with a certificate and with a way to tell its clients: the shared token, or an
authority that certified them. On loopback everything is optional. A peer that is frozen or unplugged is noticed within
25 s on either side; its streams end and its place is free.

A gRPC call with `wait_for_ready` ends with a bare "deadline exceeded" when no connection was possible. Channels repeat
such calls themselves until the deadline, so that the last reason is known, and end at once where a retry cannot help.
gRPC's reasons say "failed to connect" and quote a TLS library; `describe` says what they mean.
"""

import asyncio
import contextlib
import logging
import random
import signal
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc

from protos.errors import InputError, TwinRLError, Unreachable
from protos.files import write_durably
from protos.status import StatusFile
from services.net.admission import Admission
from services.net.credentials import LOOPBACK, CallDetails, Credentials, TokenCarrier
from services.net.rereading import RenewedChannel, Reread

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 << 20
MAX_STREAMS = 1024
"""Calls under way on one connection; the watchers of one process share theirs."""
_BOTH_OPTIONS = [
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # by default an unanswered ping keeps a dead connection for a minute
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
]
CLIENT_OPTIONS = [
    *_BOTH_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
]
# By default a server answers pings that come more often than every 5 minutes with GOAWAY (gRPC's keepalive guide).
SERVER_OPTIONS = [
    *_BOTH_OPTIONS,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.so_reuseport", 0),
]
RETRY_S = 0.1
_HOPELESS = {
    "WRONG_VERSION_NUMBER": "the service there speaks without TLS; leave out credentials.authority, or "
    "give the service a certificate and a key",
    "Hostname Verification Check failed": "its certificate was made for other host names than this address",
    "certificate has expired": "its certificate has expired",
    "unsupported certificate purpose": "its certificate is a client's, not a server's",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not signed by our authority (credentials.authority)",
}
"""Meaning by quoted reason; a retry cannot help."""
_TRANSIENT = {
    "Connection refused": "nothing listens there",
    "Socket closed": "the connection was closed at once: the service may want TLS (credentials.authority), or a "
    "certificate of its authority (credentials.certificate, credentials.key)",
}
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_AT_CONNECT = "failed to connect to all addresses"


def parse_address(address: str) -> tuple[str, int]:
    """Reads host and port of "host:port" or "[ipv6]:port". Raises InputError."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 65536):
        raise InputError(f"address {address!r}: write host:port with a port from 0 to 65535, as in 127.0.0.1:7070")
    return host.strip("[]"), int(port)


def free_port(host: str = "127.0.0.1") -> int:
    """Returns a TCP port that was free a moment ago."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def is_loopback(host: str) -> bool:
    """Returns True if only processes of this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def open_channel(address: str, credentials: Credentials = LOOPBACK) -> grpc.Channel:
    """Makes a channel for synchronous clients; every call on it carries the token. It connects when first used.

    With an authority the channel is encrypted. Raises InputError for credentials that cannot be read, for a certificate
    without an authority, and for a token that would travel to another host in the clear.
    """
    host, _ = parse_address(address)
    token, secure = credentials.read_token(), channel_credentials(credentials)
    if secure is None and token is not None and not is_loopback(host):
        raise InputError(f"{address}: the token would travel in the clear; give credentials.authority as well")
    if secure is None:
        channel = grpc.insecure_channel(address, options=CLIENT_OPTIONS)
    else:
        channel = RenewedChannel(
            [file for file in (credentials.authority, credentials.certificate, credentials.key) if file is not None],
            lambda: grpc.secure_channel(address, channel_credentials(credentials), options=CLIENT_OPTIONS),
        )
    return grpc.intercept_channel(channel, RetryUntilDeadline(), *([] if token is None else [TokenCarrier(token)]))


def channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials | None:
    """Returns a client's side of TLS; None without an authority. Raises InputError as `open_channel` does."""
    authority, identity = credentials.read_authority(), credentials.read_identity()
    if authority is None:
        if identity is not None:
            raise InputError(f"certificate={credentials.certificate}: a client needs credentials.authority beside it")
        return None
    if identity is None:
        return grpc.ssl_channel_credentials(authority)
    return grpc.ssl_channel_credentials(authority, identity.key, identity.certificate)


def unreachable(service: str, address: str, error: grpc.RpcError, deadline_s: float) -> TwinRLError:
    """Returns the error to raise for a failed call: InputError where the service refused it, else Unreachable."""
    if error.code() in _REFUSALS:
        return InputError(f"{service} service at {address}: {error.details()}")
    if is_hopeless(error.details() or ""):
        return InputError(f"{service} service at {address}: {describe(error)}")
    return Unreachable(f"{service} service at {address}: {describe(error)} (deadline {deadline_s:g} s)")


def describe(error: grpc.RpcError) -> str:
    """Describes a failed call in one line: the reason why there is no connection, else status and details."""
    details = " ".join((error.details() or "").split())
    status = error.code().name.lower().replace("_", " ")
    if (meaning := explain(details)) is not None:
        return meaning
    return status if details.lower() in ("", status) else f"{status}: {details}"


def explain(details: str) -> str | None:
    """Returns the meaning of the details of a call that found no connection; None for details that are clear."""
    if _AT_CONNECT not in details:
        return None
    meanings = {**_HOPELESS, **_TRANSIENT}
    return next((meaning for quoted, meaning in meanings.items() if quoted in details), None)


def is_hopeless(details: str) -> bool:
    """Returns True if a handshake failed for a reason that only other credentials change."""
    return _AT_CONNECT in details and any(quoted in details for quoted in _HOPELESS)


class RetryUntilDeadline(grpc.UnaryUnaryClientInterceptor):
    """Repeats calls with `wait_for_ready` until they reach their service; such calls must be safe to repeat.

    A call ends with the service's answer, at its deadline, or by a handshake that cannot succeed.
    """

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        if not details.wait_for_ready:
            return continuation(details, request)
        attempt = CallDetails.of(details)
        attempt.wait_for_ready = False
        assert attempt.timeout is not None, "a call that waits needs a deadline"
        deadline = time.monotonic() + attempt.timeout
        while True:
            call = continuation(attempt, request)
            attempt.timeout = deadline - time.monotonic() - RETRY_S
            lost = call.code() is grpc.StatusCode.UNAVAILABLE and not is_hopeless(call.details() or "")
            if not lost or attempt.timeout <= 0:
                return call
            time.sleep(RETRY_S)


class Backoff:
    """A backoff gives the seconds before the next attempt: 0.1 doubling to 3, with jitter so that clients spread."""

    def __init__(self) -> None:
        self._next_s = 0.1

    def reset(self) -> None:
        self._next_s = 0.1

    def next_s(self) -> float:
        wait_s, self._next_s = self._next_s, min(self._next_s * 2, 3.0)
        return wait_s * random.uniform(0.5, 1.0)


async def serve(
    handler: grpc.GenericRpcHandler,
    *,
    listen: str,
    credentials: Credentials,
    port_file: Path | None,
    summary: Callable[[], tuple[str, dict[str, float]]],
) -> None:
    """Serves until SIGTERM or Ctrl-C, then gives open calls half a second to end.

    `port_file` receives the bound port as text, for launchers that listen on port 0. `summary` returns the activity and
    rates for the status file. Raises InputError for an address that is taken, for one beyond loopback without the
    credentials it needs, and for credentials that cannot be read.
    """
    host, _ = parse_address(listen)
    _check_listening(listen, host, credentials)
    secure, asks = _server_credentials(credentials), credentials.authority is not None or credentials.token is not None
    checks = [Admission(credentials)] if asks else []
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=checks)
    server.add_generic_rpc_handlers((handler,))
    try:
        port = server.add_insecure_port(listen) if secure is None else server.add_secure_port(listen, secure)
    except RuntimeError as error:
        raise InputError(f"--listen {listen}: cannot listen there; is the port taken?") from error
    await server.start()
    if port_file is not None:
        write_durably(port_file, [f"{port}\n".encode()])
    log.info("listening on %s:%d, %s", host, port, _terms(credentials))
    await _until_stopped(summary)
    await server.stop(grace=0.5)


def _check_listening(listen: str, host: str, credentials: Credentials) -> None:
    if credentials.authority is not None and credentials.certificate is None:
        raise InputError(
            f"credentials.authority={credentials.authority}: a service that asks for certificates needs its own; "
            "give --credentials.certificate and --credentials.key"
        )
    known = credentials.token is not None or credentials.authority is not None
    if not (is_loopback(host) or (credentials.certificate is not None and known)):
        raise InputError(
            f"--listen {listen}: other hosts could connect; give --credentials.certificate and --credentials.key "
            "(TLS), and --credentials.token or --credentials.authority (who may come in), or listen on 127.0.0.1"
        )


def _server_credentials(credentials: Credentials) -> grpc.ServerCredentials | None:
    """Returns a server's side of TLS, None without a certificate; with an authority clients need one too.

    Each new connection gets the certificate that is in the files by then.
    """
    files = [file for file in (credentials.authority, credentials.certificate, credentials.key) if file is not None]
    if credentials.certificate is None:
        return None
    served = Reread(files, lambda: _certificate_configuration(credentials))
    return grpc.dynamic_ssl_server_credentials(
        served.get(), served.get, require_client_authentication=credentials.authority is not None
    )


def _certificate_configuration(credentials: Credentials) -> Any:
    identity = credentials.read_identity()
    assert identity is not None, "a service with TLS has a certificate"
    pair = (identity.key, identity.certificate)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=credentials.read_authority())


def _terms(credentials: Credentials) -> str:
    """Returns the credentials that a client needs, for the log."""
    wanted = [
        *(["a certificate of the authority"] if credentials.authority is not None else []),
        *(["the token"] if credentials.token is not None else []),
    ]
    encrypted = "encrypted (TLS)" if credentials.certificate is not None else "not encrypted"
    return f"{encrypted}, clients need {' and '.join(wanted) or 'nothing'}"


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
