"""This module tells how long certificates are still good: one's own, and those that servers show."""

import socket
import ssl
import time
from datetime import UTC, datetime

from services.net.credentials import Credentials, holder_of


def seconds_left(credentials: Credentials) -> float | None:
    """Returns the seconds until one's own certificate expires, None without any. Raises InputError as reading does."""
    identity = credentials.read_identity()
    if identity is None:
        return None
    return (holder_of(identity.certificate).until - datetime.now(UTC)).total_seconds()


def server_seconds_left(host: str, port: int, credentials: Credentials, *, timeout_s: float) -> float | None:
    """Returns the seconds until the certificate of a server expires; None for one that shows us none that we believe.

    Makes a TLS connection as any client does, for gRPC ("h2") and Redis alike, and closes it.
    """
    if credentials.authority is None:
        return None
    context = ssl.create_default_context(cafile=credentials.authority)
    context.set_alpn_protocols(["h2"])
    if credentials.certificate is not None:
        context.load_cert_chain(credentials.certificate, credentials.key)
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            shown = secure.getpeercert() or {}
    except OSError:
        return None
    until = shown.get("notAfter")
    return ssl.cert_time_to_seconds(until) - time.time() if isinstance(until, str) else None
