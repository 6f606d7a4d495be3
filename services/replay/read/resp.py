"""Answers of a Redis server, read straight into the memory that wants them.

Only what GETRANGE and a handshake answer is understood: a status line, an error line, a bulk of a size known before.
Nothing is allocated for what the server says: a bulk must be of the size that was asked for or shorter, and a shorter
one is read past.
"""

from collections.abc import Callable, Sequence

import redis

BUFFER_BYTES = 16 << 10
"""Larger answers skip the buffer, but for their first part."""
MAX_LINE_BYTES = 1 << 10
END = b"\r\n"


ERRORS: dict[str, type[redis.RedisError]] = {
    "NOAUTH": redis.AuthenticationError,
    "WRONGPASS": redis.AuthenticationError,
    "NOPERM": redis.exceptions.NoPermissionError,
    "OOM": redis.exceptions.OutOfMemoryError,
}
"""By the first word of an error line, as redis-py has them; ResponseError for all others."""


class ProtocolError(redis.ConnectionError):
    """Bytes that no Redis server sends here; the connection is of no more use."""


def command(*words: str) -> bytes:
    """A command as it is sent."""
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class Answers:
    """The answers of one connection, in order. After an error, one of redis-py's, close it."""

    def __init__(self, receive: Callable[[memoryview], int]) -> None:
        """`receive` is a socket's recv_into: it waits for bytes, 0 at the end; its errors pass through."""
        self._receive = receive
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def status(self) -> str:
        """A status such as `OK`."""
        line = self._line()
        if line[:1] != b"+":
            raise ProtocolError(f"a status line expected, got {line[:40]!r}")
        return line[1:].decode(errors="replace")

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
        """Of the bulk that follows, -1 for none."""
        line = self._line()
        digits = line[1:]
        if line == b"$-1":
            return -1
        if line[:1] != b"$" or not (digits.isdigit() and len(digits) <= 19):
            raise ProtocolError(f"a length expected, got {line[:40]!r}")
        return int(digits)

    def _line(self) -> bytes:
        """Up to its end, which is taken too; an error line is raised."""
        searched = self._start
        while (end := self._buffer.find(END, searched, self._end)) < 0:
            if self._end - self._start > MAX_LINE_BYTES:
                raise ProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes")
            searched = self._more()
        line = bytes(self._view[self._start : end])
        self._start = end + len(END)
        if line[:1] == b"-":
            text = line[1:].decode(errors="replace")
            raise ERRORS.get(text.partition(" ")[0], redis.ResponseError)(text)
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
