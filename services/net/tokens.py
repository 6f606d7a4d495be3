"""The shared token on its way: clients put it into the metadata of every call, servers refuse calls without it.

The token is compared in constant time. Refusals are logged, a line a minute at most, so that nobody can fill a disk.
"""

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

log = logging.getLogger(__name__)

TOKEN_KEY = "twinrl-token"
REFUSAL = "the shared token is missing or wrong (credentials.token)"
_LOG_EVERY_S = 60.0


@dataclass
class CallDetails(grpc.ClientCallDetails):
    """One call of a client as an interceptor passes it on."""

    method: str
    timeout: float | None
    metadata: list[tuple[str, str]]
    credentials: Any
    wait_for_ready: bool | None
    compression: Any

    @classmethod
    def of(cls, details: Any) -> "CallDetails":
        """A copy of gRPC's own details that can be changed."""
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
