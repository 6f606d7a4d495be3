"""Why a connection does not come about, in words: gRPC's own say "failed to connect" and quote a TLS library.

    call that waits for its service ──► Patience ──► call, refused connection, call again … ──► answer, or the reason

A gRPC call with `wait_for_ready` ends with a bare "deadline exceeded" when no connection was possible. `Patience` asks
again itself until the deadline, so that the last reason is known, and gives up at once where waiting cannot help.
"""

import time
from collections.abc import Callable
from typing import Any

import grpc

from services.net.tokens import CallDetails

RETRY_S = 0.1
_HOPELESS = {
    "WRONG_VERSION_NUMBER": "the service there speaks without TLS; leave out credentials.authority, or "
    "give the service a certificate and a key",
    "Hostname Verification Check failed": "its certificate was made for other host names than this address",
    "certificate has expired": "its certificate has expired",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not signed by our authority (credentials.authority)",
}
"""What gRPC quotes -> what it means; no attempt will end differently."""
_DOUBTFUL = {
    "Connection refused": "nothing listens there",
    "Socket closed": "the connection was closed at once: the service may want TLS (credentials.authority), or a "
    "certificate of its authority (credentials.certificate, credentials.key)",
}
_AT_CONNECT = "failed to connect to all addresses"


def explain(details: str) -> str | None:
    """What the details of a call that found no connection mean; None for details that say it themselves."""
    if _AT_CONNECT not in details:
        return None
    meanings = {**_HOPELESS, **_DOUBTFUL}
    return next((meaning for quoted, meaning in meanings.items() if quoted in details), None)


def is_hopeless(details: str) -> bool:
    """Whether a handshake failed for a reason that only other credentials change."""
    return _AT_CONNECT in details and any(quoted in details for quoted in _HOPELESS)


class Patience(grpc.UnaryUnaryClientInterceptor):
    """Repeats calls that wait for their service until they reach it; such calls must be safe to repeat.

    Waits for the service; ends by its answer, by the call's deadline, or by a handshake that cannot succeed.
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
