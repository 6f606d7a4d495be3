"""A TCP proxy that damages the way from a server to its client at chosen bytes.

client ◄── cut, flip ── Proxy ◄── server        positions count all bytes that went to clients so far
       ────────────────────────►                (the other way is left alone)
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

BLOCK_BYTES = 1 << 16
CONNECT_TIMEOUT_S = 5.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, as a connection ends when a machine drops off


class Proxy:
    """Listens on loopback and passes on to `port`. Each position in `cut_at` ends all connections once."""

    def __init__(self, port: int, *, cut_at: Sequence[int] = (), flip_at: Sequence[int] = ()) -> None:
        self._upstream = ("127.0.0.1", port)
        self._cuts, self._flips = sorted(cut_at), sorted(flip_at)
        self.passed_bytes = 0
        self.done_cuts = self.done_flips = 0
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Ends all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()
        for thread in self._threads:
            thread.join(timeout=5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, run: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=run, args=arguments, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with contextlib.suppress(ConnectionRefusedError):
                    server = socket.create_connection(self._upstream, CONNECT_TIMEOUT_S)
                    server.settimeout(None)
                    self._sockets += [client, server]
                    self._start(self._pass, client, server)
                    self._start(self._damage, server, client)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(BLOCK_BYTES):
                target.sendall(block)
        _end(source, target)

    def _damage(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(BLOCK_BYTES):
                with self._lock:
                    damaged, cut = self._damaged(bytearray(block))
                target.sendall(damaged)
                if cut:
                    self._cut()
        _end(source, target)

    def _damaged(self, block: bytearray) -> tuple[bytearray, bool]:
        """The bytes to pass on, and whether the connections end after them."""
        end = self.passed_bytes + len(block)
        cut = bool(self._cuts) and self._cuts[0] < end
        if cut:
            del block[self._cuts.pop(0) - self.passed_bytes :]
            self.done_cuts += 1
        while self._flips and self._flips[0] < self.passed_bytes + len(block):
            block[self._flips.pop(0) - self.passed_bytes] ^= 0x10
            self.done_flips += 1
        self.passed_bytes += len(block)
        return block, cut

    def _cut(self) -> None:
        sockets, self._sockets = self._sockets, []
        for connection in sockets:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            _end(connection)
            connection.close()


def _end(*connections: socket.socket) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
