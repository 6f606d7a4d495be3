"""This module admits calls: a service answers those that the caller's role may make.

    certificate of the client (OU=robot) ─┐
    token in the metadata ────────────────┴─► role ──► RIGHTS[role].calls ──► the method, with `caller()` set

The certificate's role counts where the service demands certificates, else the token's. A client with the service's own
token has no role and may call everything, as may anybody of a service on loopback that asks for nothing. Tokens are
compared in constant time. Refusals are logged, a line a minute at most, so that they cannot fill a disk.
"""

import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import grpc

from services.net.credentials import TOKEN_KEY, Credentials, Holder, holder_of, role_token
from services.net.rereading import Reread
from services.net.roles import RIGHTS, Role

log = logging.getLogger(__name__)

BAD_TOKEN = "the token is missing or wrong (credentials.token)"
NO_ROLE = "the client's certificate names no role; `twinrl certificates` makes some that do"
REVOKED = "the client's certificate was revoked"
EXPIRED = "the client's certificate has expired"
_LOG_EVERY_S = 60.0
_CALLER: ContextVar[Role | None] = ContextVar("caller", default=None)


def caller() -> Role | None:
    """Returns the role of the client whose call is being answered, None where it has none."""
    return _CALLER.get()


class _Refused(Exception):
    """A call that may not be made, with the status of the answer."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Admission(grpc.aio.ServerInterceptor):
    """Refuses calls without the token, and those that the caller's role may not make."""

    def __init__(self, credentials: Credentials) -> None:
        """Takes the service's own credentials; with an authority clients have certificates."""
        self._certified = credentials.authority is not None
        files = [file for file in (credentials.authority, credentials.revoked) if file is not None]
        self._revoked = Reread(files, credentials.read_revoked)
        self._tokens: dict[str, Role | None] = {}
        if (token := credentials.read_token()) is not None:
            self._tokens = {token: None, **{role_token(token, role): role for role in Role}}
        self._refused, self._next_line_s = 0, 0.0

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        method = details.method.removeprefix("/twinrl.v1.")
        if handler.response_streaming:
            return handler._replace(unary_stream=self._streaming(handler.unary_stream, method))
        if handler.request_streaming:
            return handler._replace(stream_unary=self._unary(handler.stream_unary, method))
        return handler._replace(unary_unary=self._unary(handler.unary_unary, method))

    def _unary(self, answer: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
        async def admitted(request: Any, context: grpc.aio.ServicerContext) -> Any:
            await self._admit(method, context)
            return await answer(request, context)

        return admitted

    def _streaming(self, answer: Callable[..., Any], method: str) -> Callable[..., AsyncIterator[Any]]:
        async def admitted(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            await self._admit(method, context)
            async with aclosing(answer(request, context)) as messages:
                async for message in messages:
                    if self._certified and _holder(context).serial in self._revoked.get():
                        await context.abort(grpc.StatusCode.UNAUTHENTICATED, REVOKED)
                    yield message

        return admitted

    async def _admit(self, method: str, context: grpc.aio.ServicerContext) -> None:
        try:
            _CALLER.set(self._role(method, context))
        except _Refused as error:
            self._note(f"{context.peer()}: {error}")
            await context.abort(error.code, str(error))

    def _role(self, method: str, context: grpc.aio.ServicerContext) -> Role | None:
        """Returns the caller's role, which may call the method. Raises _Refused."""
        role = self._token_role(context) if self._tokens else None
        if self._certified:
            role = self._certified_role(_holder(context))
        if role is not None and method not in RIGHTS[role].calls:
            raise _Refused(grpc.StatusCode.PERMISSION_DENIED, f"the role {role.value} may not call {method}")
        return role

    def _certified_role(self, holder: Holder) -> Role:
        if holder.serial in self._revoked.get():
            raise _Refused(grpc.StatusCode.UNAUTHENTICATED, REVOKED)
        if holder.until < datetime.now(UTC):
            raise _Refused(grpc.StatusCode.UNAUTHENTICATED, EXPIRED)
        if holder.role is None:
            raise _Refused(grpc.StatusCode.PERMISSION_DENIED, NO_ROLE)
        return holder.role

    def _token_role(self, context: grpc.aio.ServicerContext) -> Role | None:
        given = str(dict(context.invocation_metadata() or ()).get(TOKEN_KEY, "")).encode()
        known = [token for token in self._tokens if hmac.compare_digest(given, token.encode())]
        if not known:
            raise _Refused(grpc.StatusCode.UNAUTHENTICATED, BAD_TOKEN)
        return self._tokens[known[0]]

    def _note(self, line: str) -> None:
        self._refused += 1
        if time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + _LOG_EVERY_S
            log.warning("refused %s (%d refusals)", line, self._refused)


def _holder(context: grpc.aio.ServicerContext) -> Holder:
    return holder_of(context.auth_context()["x509_pem_cert"][0])
