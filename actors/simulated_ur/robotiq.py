"""The socket of the Robotiq URCap: text commands that read and write the registers of a 2F-85.

    SET ACT 1 GTO 1        ► ack
    SET POS 255 SPE 255    ► ack       0 open .. 255 closed
    GET POS                ► POS 228   where the fingers are

Source: Robotiq 2F-85 instruction manual, registers of section 4; the text protocol is that of the URCap's server.
"""

import asyncio
import logging
from typing import Protocol

log = logging.getLogger(__name__)

PORT = 63352
OPEN_AT, CLOSED_AT = 3, 230
"""What a real unit reports at its ends; the register itself runs from 0 to 255."""
_WRITABLE = ("ACT", "GTO", "POS", "SPE", "FOR")
_ACTIVE = 3
_MOVING, _STOPPED_ON_OBJECT, _ARRIVED = 0, 2, 3
_ARRIVED_WITHIN = 4


class Fingers(Protocol):
    """The gripper's fingers."""

    @property
    def opening(self) -> float: ...
    def command_gripper(self, opening: float) -> None: ...


class Gripper:
    """Registers of one gripper; every connection sees the same ones."""

    def __init__(self, fingers: Fingers) -> None:
        self._fingers = fingers
        self._registers = dict.fromkeys(_WRITABLE, 0)
        self._before = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(self.answer(line.decode("ascii", "replace").split()).encode())
                await writer.drain()
        except ConnectionError:
            log.debug("gripper client went away")
        finally:
            writer.close()

    def answer(self, words: list[str]) -> str:
        """The reply to one command; as on a real unit, "ack" comes without a newline."""
        match words:
            case ["GET", name] if name in ("POS", "STA", "OBJ", *_WRITABLE):
                return f"{name} {self._read(name)}\n"
            case ["SET", *pairs] if pairs and len(pairs) % 2 == 0:
                return self._write(pairs)
            case _:
                return "?\n"

    def _write(self, pairs: list[str]) -> str:
        values = dict(zip(pairs[::2], pairs[1::2], strict=True))
        if not all(name in _WRITABLE and text.isdigit() and int(text) <= 255 for name, text in values.items()):
            return "?\n"
        self._registers |= {name: int(text) for name, text in values.items()}
        if self._registers["ACT"] and self._registers["GTO"] and "POS" in values:
            self._fingers.command_gripper(1.0 - self._registers["POS"] / 255)
        return "ack"

    def _read(self, name: str) -> int:
        position = self._position()
        if name == "POS":
            return position
        if name == "STA":
            return _ACTIVE if self._registers["ACT"] else 0
        if name == "OBJ":
            moved, self._before = position != self._before, position
            wanted = OPEN_AT + round(self._registers["POS"] / 255 * (CLOSED_AT - OPEN_AT))
            if abs(position - wanted) <= _ARRIVED_WITHIN:
                return _ARRIVED
            return _MOVING if moved else _STOPPED_ON_OBJECT
        return self._registers[name]

    def _position(self) -> int:
        return OPEN_AT + round((1.0 - self._fingers.opening) * (CLOSED_AT - OPEN_AT))
