"""This module reads parts of slots of one shard straight into the arrays that want them.

    requests ──► GETRANGE, GETRANGE, … ──►  server     some megabytes of answers are outstanding, never more
    arrays   ◄── recv_into ◄───────────────

redis-py connects and logs in, but would hand out every answer as new bytes: for raw images that costs about twice the
CPU time of reading them in place (42 µs and 76 µs for 200 kB). Nothing is allocated for what a server says: an answer
must be of the size that was asked for or shorter, and a shorter one is read past.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import redis

from services.replay.connection import connect, reaching
from services.replay.settings import Keys, ReplaySettings

WINDOW_BYTES = 4 << 20
"""Answers asked for and not yet read; the server holds them meanwhile."""
WINDOW_REQUESTS = 256
"""Requests of about 100 bytes that fit the socket's buffer, so that sending them never waits for the answers."""
BUFFER_BYTES = 16 << 10
"""Larger answers skip the buffer, but for their first part."""
MAX_LINE_BYTES = 1 << 10
END = b"\r\n"
ERRORS: dict[str, type[redis.RedisError]] = {
    "NOAUTH": redis.AuthenticationError,
    "NOPERM": redis.exceptions.NoPermissionError,
    "OOM": redis.exceptions.OutOfMemoryError,
}
"""redis-py's errors by the first word of an error line; ResponseError for all others."""


class Request(NamedTuple):
    """A request asks for bytes start … stop of a slot, into the parts of `out` one after the other.

    Their sizes add up to stop - start.
    """

    slot: int
    start: int
    stop: int
    out: Sequence[memoryview]


class SlotReader:
    """A slot reader is a connection for the slots of one buffer. Not thread-safe.

    It is opened at its first use, and again after a failure.
    """

    def __init__(self, settings: ReplaySettings, shard: int, keys: Keys) -> None:
        self._settings, self._shard, self._slots = settings, shard, keys.slots.encode()
        self._connection: Any = None  # of redis-py
        self._answers: Answers | None = None
        self._deadline = 0.0

    def read(self, requests: Sequence[Request], done: Callable[[int, bool], None] | None = None) -> list[bool]:
        """Returns False for each request whose slot is empty or ends before its `stop`; its `out` is then untouched.

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
        connection, self._connection, self._answers = self._connection, None, None
        if connection is not None:
            connection.disconnect()

    def _exchange(self, requests: Sequence[Request], done: Callable[[int, bool], None] | None) -> list[bool]:
        answers = self._connected()
        results: list[bool] = []
        sent = outstanding = 0
        for i, request in enumerate(requests):
            drained = outstanding < WINDOW_BYTES // 2 and sent - i < WINDOW_REQUESTS // 2
            if sent == i or (drained and sent < len(requests)):
                count, size = _window(requests, sent, sent - i, outstanding)
                commands = b"".join([self._command(each) for each in requests[sent : sent + count]])
                self._connection.send_packed_command([commands], check_health=False)
                sent, outstanding = sent + count, outstanding + size
            self._deadline = time.monotonic() + self._settings.command_timeout_s
            ok = answers.bulk(request.out, request.stop - request.start)
            outstanding -= request.stop - request.start
            results.append(ok)
            if done is not None:
                done(i, ok)
        return results

    def _command(self, request: Request) -> bytes:
        """Returns GETRANGE as it is sent; redis-py takes several times as long to say so."""
        parts = [b"GETRANGE", b"%s%d" % (self._slots, request.slot), b"%d" % request.start, b"%d" % (request.stop - 1)]
        return b"*4\r\n" + b"".join([b"$%d\r\n%s\r\n" % (len(part), part) for part in parts])

    def _connected(self) -> "Answers":
        if self._connection is not None and _readable(_socket_of(self._connection)):
            self.close()  # with no answer on its way this is the end: the server has been restarted
        if self._answers is None:
            client = connect(self._settings, self._shard)
            self._connection = client.connection_pool.make_connection()
            self._connection.connect()
            self._answers = Answers(self._receiver(_socket_of(self._connection)))
        return self._answers

    def _receiver(self, connection: socket.socket) -> Callable[[memoryview], int]:
        def receive(view: memoryview) -> int:
            """The socket's own deadline is for the next byte, this one for the whole answer."""
            count = connection.recv_into(view)
            if time.monotonic() > self._deadline:
                raise TimeoutError("the answer comes too slowly")
            return count

        return receive


def _socket_of(connection: Any) -> socket.socket:
    return connection._sock  # redis-py has no other way to read an answer in place


def _readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _window(requests: Sequence[Request], first: int, waiting: int, outstanding: int) -> tuple[int, int]:
    """Returns how many requests from `first` on may be sent now, at least one if none waits, and the answers' size."""
    count = size = 0
    for request in requests[first : first + WINDOW_REQUESTS - waiting]:
        if waiting + count and outstanding + size >= WINDOW_BYTES:
            break
        count += 1
        size += request.stop - request.start
    return count, size


class ProtocolError(redis.ConnectionError):
    """Bytes came that no Redis server sends here; the connection is of no more use."""


class Answers:
    """Answers are those of one connection to GETRANGE, in order. After an error, one of redis-py's, close it."""

    def __init__(self, receive: Callable[[memoryview], int]) -> None:
        """`receive` is a socket's recv_into: it waits for bytes, 0 at the end; its errors pass through."""
        self._receive = receive
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def bulk(self, out: Sequence[memoryview], size: int) -> bool:
        """Fills the parts of `out`, `size` bytes in all; False, and nothing written, if the answer is shorter."""
        length = self._length()
        if length > size:
            raise ProtocolError(f"an answer of {length} bytes, asked for {size}")
        if length == size:
            for part in out:
                self._fill(part)
        else:
            self._skip(length)
        if length >= 0:
            self._expect_end()
        return length == size

    def _length(self) -> int:
        """Reads the length of the bulk that follows, -1 for none; raises an error line."""
        line = self._line()
        digits = line[1:]
        if line[:1] == b"-":
            text = digits.decode(errors="replace")
            raise ERRORS.get(text.partition(" ")[0], redis.ResponseError)(text)
        if line == b"$-1":
            return -1
        if line[:1] != b"$" or not (digits.isdigit() and len(digits) <= 19):
            raise ProtocolError(f"a length expected, got {line[:40]!r}")
        return int(digits)

    def _line(self) -> bytes:
        """Takes a line with its end, which is not returned."""
        searched = self._start
        while (end := self._buffer.find(END, searched, self._end)) < 0:
            if self._end - self._start > MAX_LINE_BYTES:
                raise ProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes")
            searched = self._more()
        line = bytes(self._view[self._start : end])
        self._start = end + len(END)
        return line

    def _more(self) -> int:
        """Receives behind what is buffered; returns where a line end that was cut in two would begin."""
        held = self._end - self._start
        self._view[:held] = self._view[self._start : self._end]
        self._start, self._end = 0, held
        self._end += self._received(self._view[held:])
        return max(held - 1, 0)

    def _received(self, view: memoryview) -> int:
        count = self._receive(view)
        if count == 0:
            raise ProtocolError("the server closed the connection")
        return count

    def _fill(self, part: memoryview) -> None:
        done = min(len(part), self._end - self._start)
        part[:done] = self._view[self._start : self._start + done]
        self._start += done
        while done < len(part):
            done += self._received(part[done:])

    def _skip(self, length: int) -> None:
        while length > 0:
            if self._start == self._end:
                self._start = self._end = 0
                self._end = self._received(self._view)
            step = min(length, self._end - self._start)
            self._start += step
            length -= step

    def _expect_end(self) -> None:
        while self._end - self._start < len(END):
            self._more()
        found = bytes(self._view[self._start : self._start + len(END)])
        if found != END:
            raise ProtocolError(f"the end of an answer expected, got {found!r}")
        self._start += len(END)
