"""This module is the controller's side of RTDE version 2: variables, recipes, frames, one connection per client.

    frame = u16 size (header included), u8 type, payload; all numbers big-endian

    V protocol version ► accepted      O output recipe ► recipe id, types      S start, P pause ► accepted
    v controller version               I input recipe  ► recipe id, types      U data package, both ways

State packages leave at the tick of the controller and at once after a command that changed something, so that a client
who paces itself on the robot's clock need not wait for the next tick.

Source: Universal Robots, "Real-Time Data Exchange (RTDE) Guide", protocol version 2, with its tables of robot
controller inputs and outputs.
"""

import asyncio
import logging
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

log = logging.getLogger(__name__)

RTDE_PORT = 30004
_HEADER = struct.Struct(">HB")
_VERSION_REQUEST, _CONTROLLER_VERSION = ord("V"), ord("v")
_OUTPUTS, _INPUTS, _START, _PAUSE, _DATA = ord("O"), ord("I"), ord("S"), ord("P"), ord("U")
_ACCEPTED = b"\x01"
CONTROLLER_VERSION = (5, 15, 0, 0)
UNREAD_LIMIT_BYTES = 256 * 1024
"""A client that leaves more than this unread is disconnected."""


WIRE_FORMATS = {
    "VECTOR6D": "6d",
    "VECTOR3D": "3d",
    "VECTOR6INT32": "6i",
    "DOUBLE": "d",
    "UINT64": "Q",
    "UINT32": "I",
    "INT32": "i",
    "UINT8": "B",
}
"""RTDE type -> struct format (big-endian on the wire)."""

_NAMES = {
    "VECTOR6D": "target_q target_qd target_qdd target_current target_moment actual_q actual_qd actual_current "
    "joint_control_output actual_TCP_pose actual_TCP_speed actual_TCP_force target_TCP_pose target_TCP_speed "
    "joint_temperatures actual_joint_voltage ft_raw_wrench payload_inertia external_force_torque",
    "VECTOR3D": "payload_cog actual_tool_accelerometer elbow_position elbow_velocity",
    "VECTOR6INT32": "joint_mode",
    "DOUBLE": "timestamp actual_execution_time speed_scaling target_speed_fraction actual_momentum "
    "actual_main_voltage actual_robot_voltage actual_robot_current standard_analog_input0 standard_analog_input1 "
    "standard_analog_output0 standard_analog_output1 standard_analog_output_0 standard_analog_output_1 payload "
    "speed_slider_fraction tcp_force_scalar",
    "UINT64": "actual_digital_input_bits actual_digital_output_bits",
    "UINT32": "runtime_state robot_status_bits safety_status_bits speed_slider_mask",
    "INT32": "robot_mode safety_mode",
    "UINT8": "standard_digital_output_mask standard_digital_output configurable_digital_output_mask "
    "configurable_digital_output tool_digital_output_mask tool_digital_output standard_analog_output_mask "
    "standard_analog_output_type",
}
_TYPES = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_REGISTER = re.compile(r"(?:in|out)put_(int|double)_register_(\d+)")

ROBOT_MODE_RUNNING = 7
RUNTIME_STOPPED, RUNTIME_PLAYING = 1, 2
SAFETY_NORMAL, SAFETY_PROTECTIVE_STOP = 1, 3
STATUS_POWER_ON, STATUS_PROGRAM_RUNNING = 1, 2
SAFETY_BIT_NORMAL, SAFETY_BIT_PROTECTIVE_STOP = 1, 4


def wire_type(name: str) -> str | None:
    """Returns the RTDE type of a variable, None when a controller does not have it."""
    if (register := _REGISTER.fullmatch(name)) is not None:
        return {"int": "INT32", "double": "DOUBLE"}[register[1]] if int(register[2]) < 48 else None
    return _TYPES.get(name)


@dataclass(frozen=True)
class Field:
    """One variable of a recipe and how many numbers it takes on the wire."""

    name: str
    kind: str

    @property
    def width(self) -> int:
        digits = WIRE_FORMATS[self.kind][:-1]
        return int(digits) if digits else 1


def start_values() -> dict[str, Any]:
    """Returns every variable of a powered robot whose program does not run yet."""
    widths = {name: Field(name, kind).width for name, kind in _TYPES.items()}
    values: dict[str, Any] = {name: 0 if width == 1 else [0] * width for name, width in widths.items()}
    for direction in ("input", "output"):
        for index in range(48):
            values[f"{direction}_int_register_{index}"] = 0
            values[f"{direction}_double_register_{index}"] = 0.0
    joint_running, celsius, volts = 253, 28.0, 48.0
    return values | {
        "robot_mode": ROBOT_MODE_RUNNING,
        "safety_mode": SAFETY_NORMAL,
        "runtime_state": RUNTIME_STOPPED,
        "robot_status_bits": STATUS_POWER_ON,
        "safety_status_bits": SAFETY_BIT_NORMAL,
        "speed_scaling": 1.0,
        "target_speed_fraction": 1.0,
        "actual_main_voltage": volts,
        "actual_robot_voltage": volts,
        "joint_mode": [joint_running] * 6,
        "joint_temperatures": [celsius] * 6,
    }


class Machine(Protocol):
    """The part of a controller that RTDE clients read and write."""

    def receive(self, inputs: Mapping[str, Any]) -> None: ...
    def state(self, names: Collection[str]) -> Mapping[str, Any]: ...


class Recipe:
    """An ordered list of variables that travels as one data package."""

    def __init__(self, names: list[str]) -> None:
        kinds = [wire_type(name) for name in names]
        self.reply = ",".join(kind or "NOT_FOUND" for kind in kinds).encode()
        self.fields = [Field(name, kind) for name, kind in zip(names, kinds, strict=True) if kind]
        self._struct = struct.Struct(">" + "".join(WIRE_FORMATS[field.kind] for field in self.fields))

    def pack(self, values: Mapping[str, Any]) -> bytes:
        numbers: list[float] = []
        for field in self.fields:
            if field.width == 1:
                numbers.append(values[field.name])
            else:
                numbers.extend(values[field.name])
        return self._struct.pack(*numbers)

    def unpack(self, payload: bytes) -> dict[str, Any]:
        """Returns the values of a data package. Raises struct.error when the payload has another length."""
        numbers, start, values = self._struct.unpack(payload), 0, {}
        for field in self.fields:
            piece = numbers[start : start + field.width]
            values[field.name] = piece[0] if field.width == 1 else list(piece)
            start += field.width
        return values


class RtdeServer:
    """Serves all RTDE clients of one controller."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.connections: set[RtdeConnection] = set()

    def connect(self) -> "RtdeConnection":
        return RtdeConnection(self)

    def publish(self, *, changes_only: bool = False) -> None:
        """Sends the state to every started client; with `changes_only`, to those for whom it changed."""
        started = [one for one in self.connections if one.started]
        if started:
            state = self.machine.state(set().union(*(one.outputs for one in started)))
            for connection in started:
                connection.send_state(state, changes_only=changes_only)


class RtdeConnection(asyncio.Protocol):
    """One client: its recipes, and the frames that it sends."""

    def __init__(self, server: RtdeServer) -> None:
        self._server = server
        self._received = b""
        self._inputs: list[Recipe] = []
        self._output: Recipe | None = None
        self._sent = b""
        self.outputs: frozenset[str] = frozenset()
        self.started = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= _HEADER.size:
            size, kind = _HEADER.unpack_from(self._received)
            if size < _HEADER.size:
                log.warning("RTDE frame of %d bytes: closing the connection", size)
                self._transport.abort()
                return
            if len(self._received) < size:
                return
            payload, self._received = self._received[_HEADER.size : size], self._received[size:]
            self._handle(kind, payload)

    def send_state(self, state: Mapping[str, Any], *, changes_only: bool) -> None:
        assert self._output is not None, "started without an output recipe"
        package = bytes([1]) + self._output.pack(state)
        if changes_only and package == self._sent:
            return
        if self._transport.get_write_buffer_size() > UNREAD_LIMIT_BYTES:
            log.warning("RTDE client reads nothing: closing the connection")
            self._transport.abort()
            return
        self._sent = package
        self._reply(_DATA, package)

    def _reply(self, kind: int, payload: bytes) -> None:
        self._transport.write(_HEADER.pack(_HEADER.size + len(payload), kind) + payload)

    def _handle(self, kind: int, payload: bytes) -> None:
        if kind == _DATA:
            self._handle_data(payload)
        elif kind == _VERSION_REQUEST:
            self._reply(kind, _ACCEPTED)
        elif kind == _CONTROLLER_VERSION:
            self._reply(kind, struct.pack(">4I", *CONTROLLER_VERSION))
        elif kind == _OUTPUTS:
            self._output = Recipe(_names(payload[8:]))  # 8 bytes of wished frequency: the controller streams at its own
            self.outputs = frozenset(field.name for field in self._output.fields)
            self._reply(kind, _ACCEPTED + self._output.reply)
        elif kind == _INPUTS:
            self._inputs.append(Recipe(_names(payload)))
            self._reply(kind, bytes([len(self._inputs)]) + self._inputs[-1].reply)
        elif kind in (_START, _PAUSE):
            self.started = kind == _START and self._output is not None
            self._reply(kind, _ACCEPTED)
        else:
            log.warning("RTDE frame type %d is not simulated", kind)

    def _handle_data(self, payload: bytes) -> None:
        number = payload[0] if payload else 0
        if not 1 <= number <= len(self._inputs):
            log.warning("RTDE data package for input recipe %d of %d: dropped", number, len(self._inputs))
            return
        try:
            inputs = self._inputs[number - 1].unpack(payload[1:])
        except struct.error as error:
            log.warning("RTDE data package of %d bytes: %s: closing the connection", len(payload), error)
            self._transport.abort()
            return
        self._server.machine.receive(inputs)
        self._server.publish(changes_only=True)


def _names(payload: bytes) -> list[str]:
    return [name for name in payload.decode("ascii", "replace").split(",") if name]
