"""This module carries calls and answers between the main process and the arm's driver: one JSON object per packet.

    call     {"call": 7, "op": "servo", "pose": […], "period_s": 0.1}       answered once
    answer   {"call": 7, "value": …, "anchor": […], "held": "", "holds": 0, "clipped": {…}}
             {"call": 7, "error": kind, "text": …}
    beat     {"op": "beat"}       a caller that waits for an answer is alive; not answered

The pair of sockets keeps packets whole, so a caller who is interrupted while it waits leaves no half of one behind; it
drops the answers to calls that it gave up.
"""

import json
import select
import socket
from typing import Any

from protos.errors import ArmHeld, ArmStopped, CorruptData, InputError, TwinRLError, Unreachable

LIMIT_BYTES = 16 * 1024
ERRORS: dict[str, type[TwinRLError]] = {kind.__name__: kind for kind in (ArmHeld, ArmStopped, InputError, Unreachable)}
"""Errors that travel, by name."""
Message = dict[str, Any]
BEAT: Message = {"op": "beat"}


class ClosedError(Exception):
    """The other side has left."""


class Wire:
    """One end of the pair."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setblocking(True)

    @staticmethod
    def pair() -> tuple["Wire", socket.socket]:
        """Returns this process's end, and the socket that the other process inherits."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Wire(here), there

    def send(self, message: Message) -> None:
        """Sends one message. Raises ClosedError when nobody is there to read it."""
        packet = json.dumps(message).encode()
        assert len(packet) <= LIMIT_BYTES, f"a message of {len(packet)} bytes"
        try:
            self._end.sendall(packet)
        except OSError as error:
            raise ClosedError(str(error)) from error

    def receive(self, timeout_s: float | None) -> Message | None:
        """Returns the next message, None when none has come in time (None: waits without end).

        Raises ClosedError when the other side has left, CorruptData for what is no message.
        """
        if timeout_s is not None and not select.select([self._end], [], [], timeout_s)[0]:
            return None
        try:
            packet = self._end.recv(LIMIT_BYTES + 1)
        except OSError as error:
            raise ClosedError(str(error)) from error
        if not packet:
            raise ClosedError("end of file")
        return _unpack(packet)

    def close(self) -> None:
        self._end.close()


def _unpack(packet: bytes) -> Message:
    if len(packet) > LIMIT_BYTES:
        raise CorruptData(f"a packet of more than {LIMIT_BYTES} bytes between the program and the arm's driver")
    try:
        message = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"a packet between the program and the arm's driver is no JSON: {error}") from error
    if not isinstance(message, dict):
        raise CorruptData(f"a packet between the program and the arm's driver holds a {type(message).__name__}")
    return message


def error_message(error: TwinRLError) -> Message:
    """Returns the answer that carries an error of `ERRORS`; the nearest kind stands for a finer one."""
    kind = next(name for name, one in ERRORS.items() if isinstance(error, one))
    return {"error": kind, "text": str(error)}


def raise_error(answer: Message) -> None:
    """Raises the error that an answer carries, if it carries one."""
    if "error" in answer:
        raise ERRORS.get(answer["error"], CorruptData)(str(answer.get("text")))
