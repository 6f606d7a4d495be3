"""Servers and lines between them that misbehave on purpose."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

DEADLINE_S = 30.0


class Listener:
    """Accepts on a unix socket or a free TCP port of loopback and serves each connection in a thread."""

    def __init__(self, serve: Callable[[socket.socket], None], *, path: Path | None = None) -> None:
        self._serve = serve
        self._socket = socket.create_server(("127.0.0.1", 0)) if path is None else socket.socket(socket.AF_UNIX)
        if path is not None:
            self._socket.bind(str(path))
            self._socket.listen()
        self.url = f"unix://{path}" if path else f"redis://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.settimeout(DEADLINE_S)
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def _serve_one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._serve(connection)


def answer_handshake(connection: socket.socket) -> bytes:
    """Answers what redis-py says of itself; returns the first request after that."""
    while b"SETINFO" in (asked := connection.recv(1 << 16)):
        connection.sendall(b"+OK\r\n")
    return asked


class Script(Listener):
    """Answers each connection's first request with fixed bytes, then waits for the client to leave."""

    def __init__(self, answers: Sequence[bytes], *, path: Path, close: bool = False) -> None:
        super().__init__(self._answer, path=path)
        self._answers, self._close = list(answers), close

    def _answer(self, connection: socket.socket) -> None:
        assert answer_handshake(connection)
        connection.sendall(self._answers.pop(0))
        while not self._close and connection.recv(1 << 16):
            pass


class Line(Listener):
    """A TCP port, with TLS if wanted, in front of a server's unix socket; `cut_after` counts the bytes of answers."""

    def __init__(self, target: Path, *, tls: ssl.SSLContext | None = None, cut_after: int | None = None) -> None:
        super().__init__(self._forward)
        self._target, self._tls, self.cut_after = target, tls, cut_after
        if tls is not None:
            self.url = self.url.replace("redis:", "rediss:")

    def _forward(self, plain: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            client = plain if self._tls is None else stack.enter_context(self._tls.wrap_socket(plain, server_side=True))
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.connect(str(self._target))
            back = threading.Thread(target=self._back, args=(server, client), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while data := client.recv(1 << 16):
                    server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)
            back.join(DEADLINE_S)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if self.cut_after is not None:
                    data = data[: self.cut_after]
                    self.cut_after -= len(data)
                client.sendall(data)
                if self.cut_after == 0:
                    break
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
