"""Reads parts of slots of one shard straight into the arrays that want them.

    requests ──► GETRANGE, GETRANGE, … ──►  server     some megabytes of answers are outstanding, never more
    arrays   ◄── recv_into ◄───────────────

redis-py would hand out every answer as new bytes, which for pictures costs several times what reading them costs.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from services.replay.connection import reaching
from services.replay.read.resp import Answers, command
from services.replay.read.sockets import greeting, open_socket
from services.replay.settings import Keys, ReplaySettings

WINDOW_BYTES = 4 << 20
"""Answers asked for and not yet read; the server holds them meanwhile."""
WINDOW_REQUESTS = 256
"""Of about 100 bytes: they fit the socket's buffer, so that sending them never waits for the answers."""


class Request(NamedTuple):
    """Bytes start … stop of a slot, into `out` one after the other (their sizes add up to stop − start)."""

    slot: int
    start: int
    stop: int
    out: Sequence[memoryview]


class SlotReader:
    """A connection for the slots of one buffer; opened at its first use, and again after a failure. Not thread-safe."""

    def __init__(self, settings: ReplaySettings, shard: int, keys: Keys) -> None:
        self._settings, self._shard, self._slots = settings, shard, keys.slots
        self._socket: socket.socket | None = None
        self._answers: Answers | None = None
        self._give_up = 0.0

    def read(self, requests: Sequence[Request], done: Callable[[int, bool], None] | None = None) -> list[bool]:
        """False for each request whose slot is empty or ends before its `stop`; its `out` is then untouched.

        `done(i, ok)` is called when answer i is complete, while the next ones are on their way. Raises Unreachable
        where an answer takes longer than the deadline, and InputError where credentials are refused.
        """
        with reaching(self._settings, self._shard), contextlib.ExitStack() as on_error:
            on_error.callback(self.close)  # with answers on their way the connection is of no more use
            results = self._exchange(requests, done)
            on_error.pop_all()
            return results

    def close(self) -> None:
        """Ends the connection; the next `read` opens another."""
        connection, self._socket, self._answers = self._socket, None, None
        if connection is not None:
            connection.close()

    def _exchange(self, requests: Sequence[Request], done: Callable[[int, bool], None] | None) -> list[bool]:
        connection, answers = self._connected()
        results: list[bool] = []
        sent = outstanding = 0
        for i, request in enumerate(requests):
            drained = outstanding < WINDOW_BYTES // 2 and sent - i < WINDOW_REQUESTS // 2
            if sent == i or (drained and sent < len(requests)):
                count, size = _window(requests, sent, sent - i, outstanding)
                connection.sendall(b"".join(map(self._command, requests[sent : sent + count])))
                sent, outstanding = sent + count, outstanding + size
            self._give_up = time.monotonic() + self._settings.command_timeout_s
            ok = answers.bulk(request.out, request.stop - request.start)
            outstanding -= request.stop - request.start
            results.append(ok)
            if done is not None:
                done(i, ok)
        return results

    def _command(self, request: Request) -> bytes:
        return command("GETRANGE", f"{self._slots}{request.slot}", str(request.start), str(request.stop - 1))

    def _receive(self, view: memoryview) -> int:
        """The socket's own deadline is for the next byte, this one for the whole answer."""
        assert self._socket is not None
        count = self._socket.recv_into(view)
        if time.monotonic() > self._give_up:
            raise TimeoutError("the answer comes too slowly")
        return count

    def _connected(self) -> tuple[socket.socket, Answers]:
        if self._socket is not None and _readable(self._socket):
            self.close()  # with no answer on its way this is the end: the server has been restarted
        if self._socket is None or self._answers is None:
            url = self._settings.urls[self._shard]
            self._give_up = time.monotonic() + self._settings.connect_timeout_s
            self._socket = open_socket(url, self._settings)
            self._answers = Answers(self._receive)
            for words in greeting(url, self._settings.credentials):
                self._socket.sendall(command(*words))
                self._answers.status()
            self._socket.settimeout(self._settings.command_timeout_s)
        return self._socket, self._answers


def _readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _window(requests: Sequence[Request], first: int, waiting: int, outstanding: int) -> tuple[int, int]:
    """How many requests from `first` on may be sent now, at least one if none waits, and the size of their answers."""
    count = size = 0
    for request in requests[first : first + WINDOW_REQUESTS - waiting]:
        if waiting + count and outstanding + size >= WINDOW_BYTES:
            break
        count += 1
        size += request.stop - request.start
    return count, size
