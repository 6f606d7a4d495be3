"""This module holds the credentials with which processes reach services beyond their machine, and serve beyond it.

    token         one line that every gRPC client sends with every call; all of a lab share it
    authority     certificate of the lab's own authority: a peer that it has not certified is refused
    certificate   of this process, signed by the authority; `key` is its private key

    client with authority                 encrypted, the server must be certified
    client with certificate and key too   mutual: the server checks the client's certificate
    server with certificate and key       encrypted; with authority too it refuses clients that are not certified

The same certificates serve gRPC and Redis (`rediss://`); `services.net.certificates` makes them. On loopback none of
this is needed.

Clients put the token into the metadata of every call, servers compare it in constant time and refuse calls without it.
Refusals are logged, a line a minute at most, so that they cannot fill a disk.
"""

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from protos.errors import InputError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

log = logging.getLogger(__name__)

MIN_TOKEN_CHARACTERS = 16
TOKEN_KEY = "twinrl-token"
REFUSAL = "the shared token is missing or wrong (credentials.token)"
_LOG_EVERY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Identity:
    """An identity is a process's own certificate and its private key, in PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Credentials are the paths of PEM files and of the token; all empty on loopback."""

    token: Path | None = None
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InputError(f"certificate={self.certificate}, key={self.key}: give both or neither")

    def read_token(self) -> str | None:
        """Returns the shared token, None without a file. Raises InputError for a weak or unreadable one."""
        if self.token is None:
            return None
        try:
            token = self.token.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"token file {self.token}: cannot be read ({error})") from error
        if not (len(token) >= MIN_TOKEN_CHARACTERS and token.isascii() and token.isprintable()):
            raise InputError(
                f"token file {self.token}: needs one line of at least {MIN_TOKEN_CHARACTERS} printable characters"
            )
        return token

    def read_authority(self) -> bytes | None:
        """Returns the authority's certificate in PEM, or None. Raises InputError for a bad or expired one."""
        if self.authority is None:
            return None
        pem = _read("authority", self.authority)
        _check_certificates("authority", self.authority, pem)
        return pem

    def read_identity(self) -> Identity | None:
        """Returns certificate and key, None without files.

        Raises InputError for files that cannot be read, an expired certificate, and a key of another certificate.
        """
        if self.certificate is None or self.key is None:
            return None
        identity = Identity(certificate=_read("certificate", self.certificate), key=_read("key", self.key))
        leaf = _check_certificates("certificate", self.certificate, identity.certificate)
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(identity.key, password=None)
        except (ValueError, TypeError) as error:  # TypeError: it is encrypted
            raise InputError(f"key file {self.key}: not a private key in PEM without a password") from error
        if key.public_key() != leaf.public_key():
            raise InputError(f"key file {self.key}: does not belong to the certificate in {self.certificate}")
        return identity


LOOPBACK = Credentials()
"""Empty credentials, for services of the same machine."""


def _read(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} file {path}: cannot be read ({error})") from error


def _check_certificates(what: str, path: Path, pem: bytes) -> "Certificate":
    """Returns the first certificate of the file. Raises InputError when there is none, or one is not valid now."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        certificates = load_pem_x509_certificates(pem)
    except ValueError as error:
        raise InputError(f"{what} file {path}: not a certificate in PEM") from error
    now = datetime.now(UTC)
    for one in certificates:
        if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
            valid = f"from {one.not_valid_before_utc:%Y-%m-%d} to {one.not_valid_after_utc:%Y-%m-%d}"
            raise InputError(f"{what} file {path}: valid {valid}, which is not now; make a new one")
    return certificates[0]


@dataclass
class CallDetails(grpc.ClientCallDetails):
    """Call details describe one call of a client in a form that an interceptor may change."""

    method: str
    timeout: float | None
    metadata: list[tuple[str, str]]
    credentials: Any
    wait_for_ready: bool | None
    compression: Any

    @classmethod
    def of(cls, details: Any) -> "CallDetails":
        """Copies gRPC's own details, which cannot be changed."""
        return cls(
            method=details.method,
            timeout=details.timeout,
            metadata=list(details.metadata or ()),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
            compression=details.compression,
        )


class TokenCarrier(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to the metadata of every call."""

    def __init__(self, token: str) -> None:
        self._token = token

    def _call(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        carried = CallDetails.of(details)
        carried.metadata.append((TOKEN_KEY, self._token))
        return continuation(carried, request)

    intercept_unary_unary = _call
    intercept_unary_stream = _call
    intercept_stream_unary = _call
    intercept_stream_stream = _call


class TokenCheck(grpc.aio.ServerInterceptor):
    """Refuses every call that does not carry the shared token."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._refusal = grpc.unary_unary_rpc_method_handler(self._refuse)
        self._refused = 0
        self._next_line_s = 0.0

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        given = dict(details.invocation_metadata).get(TOKEN_KEY, "")
        if hmac.compare_digest(str(given).encode(), self._token):
            return await continuation(details)
        return self._refusal

    async def _refuse(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self._refused += 1
        if time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + _LOG_EVERY_S
            log.warning("refused %s: its token is missing or wrong (%d refusals)", context.peer(), self._refused)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)
        raise AssertionError("abort raises")
