"""The ports that take URScript: ur_rtde uploads its control script there, which starts the program."""

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

PORTS = (30001, 30002, 30003)
SCRIPT_LIMIT_BYTES = 1 << 20


class ScriptPort(asyncio.Protocol):
    """One connection; `start` is called when the control script has arrived completely."""

    def __init__(self, start: Callable[[], None]) -> None:
        self._start, self._text = start, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._text += data
        if self._text.rstrip().endswith(b"end"):
            if b"def rtde_control" in self._text:
                self._start()
            else:
                log.warning("a script of %d bytes that is not ur_rtde's is not simulated", len(self._text))
            self._text = b""
        elif len(self._text) > SCRIPT_LIMIT_BYTES:
            log.warning("script longer than %d bytes: closing the connection", SCRIPT_LIMIT_BYTES)
            self._transport.abort()
