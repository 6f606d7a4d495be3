"""This module opens the ports of the simulated controller and answers on them; RTDE is in `rtde`.

    29999         Dashboard    what an operator does at the teach pendant (`dashboard`)
    30001 … 30003 ScriptPort   takes URScript: ur_rtde uploads its control script, which starts the program
    30004         RtdeServer   state out, command registers in
    63352         Gripper      the socket of the Robotiq URCap
    30100         LabServer    cameras, hands and eyes of the lab (`actors.lab`); no port of a real controller

Source: Robotiq 2F-85 instruction manual, registers of section 4; the gripper's text protocol is that of the URCap's
server.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from actors import lab
from actors.simulated_ur.controller import Controller
from actors.simulated_ur.dashboard import Dashboard
from actors.simulated_ur.lines import answer_lines
from actors.simulated_ur.pendant import Pendant
from actors.simulated_ur.rtde import RTDE_PORT, RtdeServer
from protos.errors import CorruptData, InputError
from protos.schema import Configuration
from protos.settings import from_json

log = logging.getLogger(__name__)

DASHBOARD_PORT = 29999
SCRIPT_PORTS = (30001, 30002, 30003)
GRIPPER_PORT = 63352
TICK_S, FAST_TICK_S = 0.01, 0.02
"""Longest period of ticks and of the state stream; 100 Hz keeps an idle robot cheap. Where the clock runs ahead, nobody
waits for a tick."""
SCRIPT_LIMIT_BYTES = 1 << 20
OPEN_AT, CLOSED_AT = 3, 230
"""Positions that a real gripper reports at its ends; the register itself runs from 0 to 255."""
_WRITABLE = ("ACT", "GTO", "POS", "SPE", "FOR")
_ACTIVE = 3
_MOVING, _STOPPED_ON_OBJECT, _ARRIVED = 0, 2, 3
_ARRIVED_WITHIN = 4


async def serve(controller: Controller, *, host: str, lab_port: int, objects: Sequence[str]) -> None:
    """Listens until cancelled. Raises InputError if a port is taken or the address cannot be bound."""
    streams = RtdeServer(controller)
    handlers = {
        DASHBOARD_PORT: Dashboard(controller).serve,
        GRIPPER_PORT: Gripper(controller).serve,
        lab_port: LabServer(controller, objects).serve,
    }
    loop = asyncio.get_running_loop()
    servers: list[asyncio.Server] = []
    try:
        servers.append(await loop.create_server(streams.connect, host, RTDE_PORT))
        for port in SCRIPT_PORTS:
            servers.append(await loop.create_server(lambda: ScriptPort(controller), host, port))
        for port, handler in handlers.items():
            servers.append(await asyncio.start_server(handler, host, port))
    except OSError as error:
        raise InputError(f"host {host}: cannot listen there ({error}); choose another 127.0.0.N") from error
    log.info("simulated UR5e listens on %s (RTDE %d, lab %d)", host, RTDE_PORT, lab_port)
    try:
        await _tick(controller, streams)
    finally:
        for server in servers:
            server.close()


async def _tick(controller: Controller, streams: RtdeServer) -> None:
    """Lets time pass at a steady rate and sends the state, in real time as often as the fastest client asked for.

    Where the clock runs ahead, commands do that by themselves while they arrive.
    """
    now = asyncio.get_running_loop().time
    due_s = now()
    while True:
        controller.tick()
        streams.publish(now())
        period_s = FAST_TICK_S if controller.is_fast else min(TICK_S, streams.period_s)
        due_s = max(due_s + period_s, now())
        await asyncio.sleep(due_s - now())
        while streams.has_told():  # commands let time pass by themselves
            await asyncio.sleep(FAST_TICK_S)


class Interpreter(Protocol):
    """The part of the controller that runs scripts."""

    def start_program(self) -> None: ...
    def refuse_script(self) -> None: ...


class ScriptPort(asyncio.Protocol):
    """Takes scripts from one connection; the control script is started when it has arrived completely."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter, self._text = interpreter, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._text += data
        if self._text.rstrip().endswith(b"end"):
            if b"def rtde_control" in self._text:
                self._interpreter.start_program()
            else:
                self._interpreter.refuse_script()
            self._text = b""
        elif len(self._text) > SCRIPT_LIMIT_BYTES:
            log.warning("script longer than %d bytes: closing the connection", SCRIPT_LIMIT_BYTES)
            self._transport.abort()


class Fingers(Protocol):
    """The gripper's fingers."""

    @property
    def opening(self) -> float: ...
    @property
    def gripper_fault(self) -> int: ...
    def command_gripper(self, opening: float) -> None: ...


class Gripper:
    """Holds the registers of one gripper; every connection sees the same ones.

    SET ACT 1 GTO 1        ► ack
    SET POS 255 SPE 255    ► ack       0 open .. 255 closed
    GET POS                ► POS 228   measured position of the fingers
    GET FLT                ► FLT 0     no fault
    """

    def __init__(self, fingers: Fingers) -> None:
        self._fingers = fingers
        self._registers = dict.fromkeys(_WRITABLE, 0)
        self._before = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one connection, line by line, until the client leaves."""
        await answer_lines(reader, writer, lambda line: self.answer(line.split()))

    def answer(self, words: list[str]) -> str:
        """Returns the reply to one command; as on a real unit, "ack" comes without a newline."""
        match words:
            case ["GET", name] if name in ("POS", "STA", "OBJ", "FLT", *_WRITABLE):
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
        position = OPEN_AT + round((1.0 - self._fingers.opening) * (CLOSED_AT - OPEN_AT))
        if name == "POS":
            return position
        if name == "FLT":
            return self._fingers.gripper_fault
        if name == "STA":
            return _ACTIVE if self._registers["ACT"] else 0
        if name == "OBJ":
            moved, self._before = position != self._before, position
            wanted = OPEN_AT + round(self._registers["POS"] / 255 * (CLOSED_AT - OPEN_AT))
            if abs(position - wanted) <= _ARRIVED_WITHIN:
                return _ARRIVED
            return _MOVING if moved else _STOPPED_ON_OBJECT
        return self._registers[name]


class LabServer:
    """Serves the surroundings of one controller's arm. `objects` are the names of the bodies on the table."""

    def __init__(self, controller: Controller, objects: Sequence[str]) -> None:
        self._controller, self._objects = controller, tuple(objects)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one connection until the client leaves or sends what is no message."""
        try:
            while True:
                text, blob = lab.lengths(await reader.readexactly(lab.HEADER.size))
                request = json.loads(await reader.readexactly(text))
                await reader.readexactly(blob)
                writer.write(self._reply(request))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            log.debug("lab client went away")
        except (CorruptData, json.JSONDecodeError) as error:
            log.warning("lab: %s: closing the connection", error)
        finally:
            writer.close()

    def _reply(self, request: dict[str, Any]) -> bytes:
        try:
            return self._answer(request)
        except InputError as error:
            return lab.pack({"error": str(error)})

    def _answer(self, request: dict[str, Any]) -> bytes:
        controller = self._controller
        match request.get("op"):
            case "images":
                side, wrist = controller.render()
                shapes = {"side": side.shape, "wrist": wrist.shape, "t": controller.time_s}
                return lab.pack(shapes, side.tobytes() + wrist.tobytes())
            case "place":
                controller.place(from_json(Configuration, request.get("configuration", {}), "configuration"))
            case "objects":
                return lab.pack({"objects": {name: controller.world.object_pose(name) for name in self._objects}})
            case "tool":
                return lab.pack({"tool": controller.fingertips().tolist()})
            case "success":
                return lab.pack({"success": controller.world.success()})
            case "protective_stop":
                controller.protective_stop("someone pushed the arm")
            case "pendant":
                changes = asdict(controller.pendant) | request.get("changes", {})
                controller.set_pendant(from_json(Pendant, changes, "pendant"))
                return lab.pack({"pendant": asdict(controller.pendant), "popup": controller.popup})
            case other:
                raise InputError(f"op {other!r}: choose one of {', '.join(lab.OPS)}")
        return lab.pack({})
