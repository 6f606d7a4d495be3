"""This module is the controller's side of RTDE version 2: variables, recipes, frames, one connection per client.

    frame = u16 size (header included), u8 type, payload; all numbers big-endian

    V protocol version ► accepted      O output recipe ► recipe id, types      S start, P pause ► accepted
    v controller version               I input recipe  ► recipe id, types      U data package, both ways

In real time state packages leave at the frequency that a client asks for. Where the robot's clock runs ahead they leave
at once after a command that changed something, so that a client who paces itself on that clock need not wait for the
next tick; ticks send them only while no commands arrive. An input belongs to the connection that asked for it first,
until it closes.

Source: Universal Robots, "Real-Time Data Exchange (RTDE) Guide", protocol version 2, with its tables of robot
controller inputs and outputs.
"""

import asyncio
import logging
import re
import struct
from collections.abc import Collection, Mapping
from typing import Any, Protocol

log = logging.getLogger(__name__)

RTDE_PORT = 30004
_HEADER, _FREQUENCY = struct.Struct(">HB"), struct.Struct(">d")
_VERSION_REQUEST, _CONTROLLER_VERSION = ord("V"), ord("v")
_OUTPUTS, _INPUTS, _START, _PAUSE, _DATA = ord("O"), ord("I"), ord("S"), ord("P"), ord("U")
_ACCEPTED = b"\x01"
FASTEST_HZ = 250.0
"""An e-Series controller sends up to 500 packages a second, at twice the cost for this computer."""
UNREAD_LIMIT_BYTES = 256 * 1024
"""A client that leaves more than this unread is disconnected."""
EARLY_SHARE = 0.25
"""A package may leave this share of its period before its time, so that two rhythms need not meet exactly."""

WIRE_FORMATS = {
    "VECTOR6D": "6d",
    "VECTOR3D": "3d",
    "VECTOR6INT32": "6i",
    "DOUBLE": "d",
    "UINT64": "Q",
    "UINT32": "I",
    "INT32": "i",
    "UINT8": "B",
    "BOOL": "?",
}
"""RTDE type -> struct format (big-endian on the wire)."""

_NAMES = {
    "VECTOR6D": "target_q target_qd target_qdd target_current target_moment actual_q actual_qd actual_current "
    "joint_control_output actual_TCP_pose actual_TCP_speed actual_TCP_force target_TCP_pose target_TCP_speed "
    "joint_temperatures actual_joint_voltage ft_raw_wrench payload_inertia external_force_torque tcp_offset",
    "VECTOR3D": "payload_cog actual_tool_accelerometer elbow_position elbow_velocity",
    "VECTOR6INT32": "joint_mode",
    "DOUBLE": "timestamp actual_execution_time speed_scaling target_speed_fraction actual_momentum "
    "actual_main_voltage actual_robot_voltage actual_robot_current standard_analog_input0 standard_analog_input1 "
    "standard_analog_output0 standard_analog_output1 standard_analog_output_0 standard_analog_output_1 payload "
    "speed_slider_fraction tcp_force_scalar joint_position_deviation_ratio collision_detection_ratio "
    "tool_analog_input0 tool_analog_input1 tool_output_current tool_temperature io_current euromap67_24V_voltage "
    "euromap67_24V_current",
    "UINT64": "actual_digital_input_bits actual_digital_output_bits",
    "UINT32": "runtime_state robot_status_bits safety_status_bits speed_slider_mask analog_io_types "
    "tool_analog_input_types euromap67_input_bits euromap67_output_bits input_bit_registers0_to_31 "
    "input_bit_registers32_to_63 output_bit_registers0_to_31 output_bit_registers32_to_63 tool_mode",
    "INT32": "robot_mode safety_mode safety_status tool_output_voltage time_scale_source",
    "UINT8": "standard_digital_output_mask standard_digital_output configurable_digital_output_mask "
    "configurable_digital_output tool_digital_output_mask tool_digital_output standard_analog_output_mask "
    "standard_analog_output_type tool_output_mode tool_digital_output0_mode tool_digital_output1_mode",
}
_TYPES = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_REGISTER = re.compile(r"(?:in|out)put_(int|double|bit)_register_(\d+)")
_REGISTERS = {"int": ("INT32", range(48)), "double": ("DOUBLE", range(48)), "bit": ("BOOL", range(64, 128))}
_INPUT = re.compile(
    r"input_.*|speed_slider_(mask|fraction)|(standard|configurable|tool)_digital_output(_mask)?"
    r"|standard_analog_output_(mask|type|0|1)|external_force_torque"
)
"""Variables that a client may write."""

RUNTIME_STOPPED, RUNTIME_PLAYING = 1, 2
STATUS_POWER_ON, STATUS_PROGRAM_RUNNING = 1, 2


def wire_type(name: str) -> str | None:
    """Returns the RTDE type of a variable, None when a controller does not have it."""
    if (register := _REGISTER.fullmatch(name)) is not None:
        kind, indices = _REGISTERS[register[1]]
        return kind if int(register[2]) in indices else None
    return _TYPES.get(name)


_WIDTHS = {kind: int(form[:-1] or 1) for kind, form in WIRE_FORMATS.items()}
"""RTDE type -> how many numbers it takes on the wire."""


def start_values() -> dict[str, Any]:
    """Returns every variable of a robot whose program does not run; what its pendant sets is 0."""
    widths = {name: _WIDTHS[kind] for name, kind in _TYPES.items()}
    values: dict[str, Any] = {name: 0 if width == 1 else [0] * width for name, width in widths.items()}
    for direction in ("input", "output"):
        for name, (_, indices) in _REGISTERS.items():
            values |= {f"{direction}_{name}_register_{index}": 0 for index in indices}
    joint_running, celsius, volts = 253, 28.0, 48.0
    return values | {
        "runtime_state": RUNTIME_STOPPED,
        "actual_main_voltage": volts,
        "actual_robot_voltage": volts,
        "joint_mode": [joint_running] * 6,
        "joint_temperatures": [celsius] * 6,
    }


class Machine(Protocol):
    """The part of a controller that RTDE clients read and write."""

    is_fast: bool

    @property
    def version(self) -> tuple[int, int, int, int]: ...
    @property
    def absent(self) -> Collection[str]: ...
    def receive(self, inputs: Mapping[str, Any]) -> None: ...
    def state(self, names: Collection[str]) -> Mapping[str, Any]: ...


class Recipe:
    """An ordered list of variables that travels as one data package.

    `absent` are variables that this controller does not have, `taken` those that another client writes.
    """

    def __init__(self, names: list[str], *, absent: Collection[str] = (), taken: Collection[str] = ()) -> None:
        kinds = [None if name in absent else wire_type(name) for name in names]
        told = ["IN_USE" if name in taken else kind or "NOT_FOUND" for name, kind in zip(names, kinds, strict=True)]
        self.reply = ",".join(told).encode()
        self.is_whole = not {"IN_USE", "NOT_FOUND"} & set(told)
        known = [(name, kind) for name, kind in zip(names, kinds, strict=True) if kind]
        self.fields = [(name, _WIDTHS[kind]) for name, kind in known]
        """Name and width of every variable that there is."""
        self._struct = struct.Struct(">" + "".join(WIRE_FORMATS[kind] for _, kind in known))

    def pack(self, values: Mapping[str, Any]) -> bytes:
        numbers: list[float] = []
        for name, width in self.fields:
            if width == 1:
                numbers.append(values[name])
            else:
                numbers.extend(values[name])
        return self._struct.pack(*numbers)

    def unpack(self, payload: bytes) -> dict[str, Any]:
        """Returns the values of a data package. Raises struct.error when the payload has another length."""
        numbers, start, values = self._struct.unpack(payload), 0, {}
        for name, width in self.fields:
            values[name] = numbers[start] if width == 1 else list(numbers[start : start + width])
            start += width
        return values


class RtdeServer:
    """Serves all RTDE clients of one controller."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.connections: set[RtdeConnection] = set()
        self._has_told = False

    def connect(self) -> "RtdeConnection":
        return RtdeConnection(self)

    @property
    def period_s(self) -> float:
        """The shortest period that a started client asked for."""
        return min((one.period_s for one in self.connections if one.started), default=float("inf"))

    def publish(self, now_s: float) -> None:
        """Sends the state to every started client whose turn it is at the wall's time."""
        is_fast = self.machine.is_fast
        self._send([one for one in self.connections if one.started and (is_fast or one.is_due(now_s))])

    def publish_changes(self) -> None:
        """Sends the state, where the clock runs ahead, to every started client for whom it changed."""
        if self.machine.is_fast:
            self._has_told = True
            self._send([one for one in self.connections if one.started], changes_only=True)

    def has_told(self) -> bool:
        """Returns True if changes were published since it was asked last: nobody needs a tick for them."""
        told, self._has_told = self._has_told, False
        return told

    def taken(self, by_others_than: "RtdeConnection") -> set[str]:
        """Returns the inputs that other connections write."""
        return {name for one in self.connections if one is not by_others_than for name in one.inputs}

    def _send(self, connections: "list[RtdeConnection]", *, changes_only: bool = False) -> None:
        if connections:
            state = self.machine.state(set().union(*(one.outputs for one in connections)))
            for connection in connections:
                connection.send_state(state, changes_only=changes_only)


class RtdeConnection(asyncio.Protocol):
    """One client: its recipes, and the frames that it sends."""

    def __init__(self, server: RtdeServer) -> None:
        self._server = server
        self._received = b""
        self._recipes: list[Recipe] = []
        self._output: Recipe | None = None
        self._sent = b""
        self.inputs: set[str] = set()
        """Variables that this client writes."""
        self.period_s = 1.0 / FASTEST_HZ
        self._due_s = 0.0
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

    def is_due(self, now_s: float) -> bool:
        """Returns True once per period of this client; one that is behind skips packages."""
        if now_s < self._due_s - EARLY_SHARE * self.period_s:
            return False
        self._due_s = max(self._due_s + self.period_s, now_s)
        return True

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
            self._reply(kind, struct.pack(">4I", *self._server.machine.version))
        elif kind == _OUTPUTS:
            self._set_up_outputs(kind, payload)
        elif kind == _INPUTS:
            self._set_up_inputs(kind, payload)
        elif kind in (_START, _PAUSE):
            self.started = kind == _START and self._output is not None
            self._reply(kind, _ACCEPTED)
        else:
            log.warning("RTDE frame type %d is not simulated", kind)

    def _set_up_outputs(self, kind: int, payload: bytes) -> None:
        if len(payload) < _FREQUENCY.size:
            log.warning("RTDE output setup of %d bytes: closing the connection", len(payload))
            self._transport.abort()
            return
        (hertz,) = _FREQUENCY.unpack_from(payload)
        self.period_s = 1.0 / (min(hertz, FASTEST_HZ) if hertz >= 1.0 else FASTEST_HZ)
        self._output = Recipe(_names(payload[_FREQUENCY.size :]), absent=self._server.machine.absent)
        self.outputs = frozenset(name for name, _ in self._output.fields)
        self._reply(kind, _ACCEPTED + self._output.reply)

    def _set_up_inputs(self, kind: int, payload: bytes) -> None:
        """Takes a recipe of inputs; one with an input that is unknown or another client's gets the number 0 instead."""
        names = _names(payload)
        unknown = [name for name in names if not _INPUT.fullmatch(name)]
        recipe = Recipe(names, absent=unknown, taken=self._server.taken(by_others_than=self))
        if recipe.is_whole:
            self._recipes.append(recipe)
            self.inputs.update(names)
        self._reply(kind, bytes([len(self._recipes) if recipe.is_whole else 0]) + recipe.reply)

    def _handle_data(self, payload: bytes) -> None:
        number = payload[0] if payload else 0
        if not 1 <= number <= len(self._recipes):
            log.warning("RTDE data package for input recipe %d of %d: dropped", number, len(self._recipes))
            return
        try:
            inputs = self._recipes[number - 1].unpack(payload[1:])
        except struct.error as error:
            log.warning("RTDE data package of %d bytes: %s: closing the connection", len(payload), error)
            self._transport.abort()
            return
        self._server.machine.receive(inputs)
        self._server.publish_changes()


def _names(payload: bytes) -> list[str]:
    return [name for name in payload.decode("ascii", "replace").split(",") if name]
