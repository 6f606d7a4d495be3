"""Commits of many segments in one round trip, without a copy of their bytes on the way to the socket."""

from collections.abc import Iterator, Sequence
from typing import Any

import redis

from services.replay.connection import Client, Keys
from services.replay.scripts import COMMIT_SHA, STAGE_TTL_MS, CommitReply, parse_commit


class Commits:
    """One pipeline: `add` any number, then iterate over `answers` once. Raises redis errors."""

    def __init__(self, client: Client) -> None:
        self._pool = client.connection_pool
        self._chunks: list[bytes] = []
        self._small: list[bytes] = []
        """What goes out together with its neighbours."""
        self._count = 0

    def add(
        self,
        keys: Keys,
        *,
        writer: str,
        previous: int,
        seq: int,
        steps: int,
        capacity_bytes: int,
        tags: Sequence[str | int],
        data: bytes,
    ) -> None:
        """Stages a segment and commits it. `tags` are further fields and values of its index entry."""
        stage = keys.stage(writer, seq)
        names = (stage, keys.slots, keys.index, keys.seen, keys.counters, keys.allowance)
        arguments = (writer, previous, seq, steps, capacity_bytes, *tags)
        self._small += [b"*5\r\n", _packed("SET", stage), b"$%d\r\n" % len(data)]
        self._chunks += [b"".join(self._small), data]
        commit = ("EVALSHA", COMMIT_SHA, len(names), *names, *arguments)
        self._small = [b"\r\n", _packed("PX", STAGE_TTL_MS), b"*%d\r\n" % len(commit), _packed(*commit)]
        self._count += 1

    def answers(self) -> Iterator[CommitReply]:
        """The answer to each commit; raises the first error where it stands among them."""
        for staged, committed in self._round_trip():
            for answer in (staged, committed):
                if isinstance(answer, redis.ResponseError):
                    raise answer
            yield parse_commit(committed)

    def _round_trip(self) -> list[tuple[Any, Any]]:
        if not self._count:
            return []
        connection = self._pool.get_connection()
        try:
            connection.send_packed_command([*self._chunks, b"".join(self._small)])
            return [(_answer(connection), _answer(connection)) for _ in range(self._count)]
        except BaseException:
            connection.disconnect()  # answers that nobody has read must not be taken for those of the next command
            raise
        finally:
            self._pool.release(connection)


def _packed(*arguments: str | int) -> bytes:
    """Arguments of a command as the Redis protocol has them."""
    texts = [str(argument).encode() for argument in arguments]
    return b"".join(b"$%d\r\n%s\r\n" % (len(text), text) for text in texts)


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error
