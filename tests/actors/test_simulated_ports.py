"""The answers of the controller's ports, byte for byte where it matters."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.simulated_ur import ports, rtde
from actors.simulated_ur.ports import ScriptPort
from actors.simulated_ur.rtde import Recipe, RtdeServer, start_values


class Machine:
    version, absent = (5, 15, 0, 0), ()

    def __init__(self, is_fast=True):
        self.is_fast = is_fast
        self.received, self.values, self.asked = [], start_values(), None

    def receive(self, inputs):
        self.received.append(dict(inputs))

    def state(self, names):
        self.asked = set(names)
        return self.values


class Wire:
    """The transport of one connection."""

    def __init__(self, protocol):
        import asyncio

        class Transport(asyncio.Transport):
            def __init__(self, wire):
                super().__init__()
                self.wire = wire

            def write(self, data):
                self.wire.sent += data

            def abort(self):
                self.wire.is_closed = True

            def get_write_buffer_size(self):
                return self.wire.unread

        self.sent, self.is_closed, self.unread = b"", False, 0
        self.protocol = protocol
        protocol.connection_made(Transport(self))

    def ask(self, kind, payload=b""):
        before = len(self.sent)
        self.protocol.data_received(struct.pack(">HB", 3 + len(payload), ord(kind)) + payload)
        return list(frames(self.sent[before:]))


def frames(data):
    while data:
        size, kind = struct.unpack_from(">HB", data)
        yield chr(kind), data[3:size]
        data = data[size:]


def connect(is_fast=True):
    machine = Machine(is_fast)
    server = RtdeServer(machine)
    return machine, server, Wire(server.connect())


def test_handshake_as_ur_rtde_does_it():
    machine, server, wire = connect()
    assert wire.ask("V", struct.pack(">H", 2)) == [("V", b"\x01")]
    assert wire.ask("v") == [("v", struct.pack(">4I", 5, 15, 0, 0))]
    outputs = struct.pack(">d", 500.0) + b"timestamp,actual_q,robot_mode,runtime_state"
    assert wire.ask("O", outputs) == [("O", b"\x01DOUBLE,VECTOR6D,INT32,UINT32")]
    assert wire.ask("I", b"input_int_register_0,input_double_register_0") == [("I", b"\x01INT32,DOUBLE")]
    assert wire.ask("I", b"input_int_register_0") == [("I", b"\x02INT32")]
    assert wire.ask("S") == [("S", b"\x01")]
    server.publish(0.0)
    ((kind, package),) = list(frames(wire.sent[-(3 + 1 + 8 + 48 + 4 + 4) :]))
    assert kind == "U" and package == struct.pack(">B7diI", 1, 0, *[0] * 6, 0, 1)
    assert machine.asked == {"timestamp", "actual_q", "robot_mode", "runtime_state"}


def test_inputs_reach_the_machine_and_a_change_is_told_at_once():
    machine, _, wire = connect()
    wire.ask("O", struct.pack(">d", 500.0) + b"output_int_register_0")
    wire.ask("I", b"input_int_register_0,input_double_register_0")
    wire.ask("S")
    assert wire.ask("U", struct.pack(">Bid", 1, 24, 0.5)) == [("U", struct.pack(">Bi", 1, 0))]
    assert machine.received == [{"input_int_register_0": 24, "input_double_register_0": 0.5}]
    assert wire.ask("U", struct.pack(">Bid", 1, 24, 0.5)) == [], "nothing changed, nothing is told"


def test_an_unknown_variable_is_said_to_be_unknown():
    _, _, wire = connect()
    assert wire.ask("I", b"input_int_register_0,warp_factor") == [("I", b"\x00INT32,NOT_FOUND")]
    assert wire.ask("I", b"input_int_register_0,actual_q") == [("I", b"\x00INT32,NOT_FOUND")], "no client writes it"
    assert wire.ask("O", struct.pack(">d", 10.0) + b"warp_factor") == [("O", b"\x01NOT_FOUND")]


def test_an_input_belongs_to_one_client_until_it_leaves():
    _, server, first = connect()
    second = Wire(server.connect())
    assert first.ask("I", b"input_int_register_0,input_double_register_0") == [("I", b"\x01INT32,DOUBLE")]
    assert first.ask("I", b"input_int_register_0") == [("I", b"\x02INT32")], "its own again, in another recipe"
    assert second.ask("I", b"input_int_register_0,input_int_register_1") == [("I", b"\x00IN_USE,INT32")]
    assert second.ask("I", b"input_int_register_1") == [("I", b"\x01INT32")], "what was refused took nothing"
    assert first.ask("I", b"input_int_register_1") == [("I", b"\x00IN_USE")]
    first.protocol.connection_lost(None)
    assert second.ask("I", b"input_int_register_0") == [("I", b"\x02INT32")]


@pytest.mark.parametrize(("asked", "sent"), [(125.0, 125), (10.0, 10), (500.0, 250), (0.0, 250)])
def test_in_real_time_packages_leave_as_often_as_asked(asked, sent):
    machine, server, wire = connect(is_fast=False)
    wire.ask("O", struct.pack(">d", asked) + b"timestamp")
    wire.ask("S")
    wire.sent = b""
    for tick in range(1000):
        server.publish(tick / 1000)
    assert len(list(frames(wire.sent))) == pytest.approx(sent, abs=sent / 50 + 1)
    wire.sent = b""
    machine.values["timestamp"] = 1.0
    server.publish_changes()
    assert wire.sent == b"", "a change waits for its package"


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_command_makes_the_tick_after_it_needless_where_the_clock_runs_ahead(is_fast):
    _, server, wire = connect(is_fast)
    assert not server.has_told()
    wire.ask("I", b"input_int_register_0")
    wire.ask("U", struct.pack(">Bi", 1, 7))
    assert server.has_told() == is_fast
    assert not server.has_told(), "one tick, not every one"


def test_variables_that_programs_of_others_ask_for():
    _, _, wire = connect()
    names = b"safety_status,joint_position_deviation_ratio,output_bit_register_64,tool_temperature,tcp_offset"
    assert wire.ask("O", struct.pack(">d", 125.0) + names) == [("O", b"\x01INT32,DOUBLE,BOOL,DOUBLE,VECTOR6D")]


def test_an_output_setup_without_a_frequency_closes_the_connection():
    _, _, wire = connect()
    wire.ask("O", b"abc")
    assert wire.is_closed


def test_frames_may_arrive_in_pieces():
    _, _, wire = connect()
    data = struct.pack(">HB", 3, ord("v")) + struct.pack(">HBH", 5, ord("V"), 2)
    for byte in data:
        wire.protocol.data_received(bytes([byte]))
    assert [kind for kind, _ in frames(wire.sent)] == ["v", "V"]


@pytest.mark.parametrize(
    "data", [struct.pack(">HB", 2, 85), struct.pack(">HBBh", 6, 85, 1, 7)], ids=["size below header", "short package"]
)
def test_damaged_frames_close_the_connection(data):
    machine, _, wire = connect()
    wire.ask("I", b"input_int_register_0")
    wire.protocol.data_received(data)
    assert wire.is_closed and machine.received == []


def test_a_client_that_reads_nothing_is_disconnected():
    _, server, wire = connect()
    wire.ask("O", struct.pack(">d", 500.0) + b"timestamp")
    wire.ask("S")
    wire.unread = rtde.UNREAD_LIMIT_BYTES + 1
    server.publish(0.0)
    assert wire.is_closed


numbers = st.floats(allow_nan=False, width=64)


@given(pose=st.lists(numbers, min_size=6, max_size=6), mode=st.integers(-(2**31), 2**31 - 1), t=numbers)
def test_recipes_round_trip(pose, mode, t):
    recipe = Recipe(["timestamp", "actual_TCP_pose", "robot_mode"])
    values = {"timestamp": t, "actual_TCP_pose": pose, "robot_mode": mode}
    assert recipe.unpack(recipe.pack(values)) == values


class Interpreter:
    def __init__(self):
        self.calls = []

    def start_program(self):
        self.calls.append("start")

    def refuse_script(self):
        self.calls.append("refuse")


def test_the_script_starts_when_it_is_complete():
    interpreter = Interpreter()
    wire = Wire(ScriptPort(interpreter))
    wire.protocol.data_received(b"def rtde_control():\n  sync()\n")
    assert interpreter.calls == []
    wire.protocol.data_received(b"end\n")
    assert interpreter.calls == ["start"]


def test_another_script_starts_nothing_and_an_endless_one_is_cut_off():
    interpreter = Interpreter()
    wire = Wire(ScriptPort(interpreter))
    wire.protocol.data_received(b"def other():\n  movej([0,0,0,0,0,0])\nend\n")
    assert interpreter.calls == ["refuse"]
    wire.protocol.data_received(b"x" * (1 << 20) + b"x")
    assert wire.is_closed


class Fingers:
    opening, gripper_fault = 1.0, 0

    def command_gripper(self, opening):
        assert 0 <= opening <= 1
        self.opening = opening


def ask(gripper, words):
    return gripper.answer(words.split())


def test_gripper_registers():
    fingers = Fingers()
    gripper = ports.Gripper(fingers)
    assert ask(gripper, "GET STA") == "STA 0\n" and ask(gripper, "GET FLT") == "FLT 0\n"
    assert ask(gripper, "SET POS 255") == "ack"
    assert fingers.opening == 1.0, "an inactive gripper does not move"
    assert ask(gripper, "SET ACT 1 GTO 1") == "ack"
    assert ask(gripper, "GET STA") == "STA 3\n"
    assert ask(gripper, "SET POS 255 SPE 100 FOR 10") == "ack"
    assert fingers.opening == 0.0
    assert ask(gripper, "GET POS") == f"POS {ports.CLOSED_AT}\n"
    assert ask(gripper, "GET OBJ") == "OBJ 3\n"
    fingers.opening = 0.45
    assert [ask(gripper, "GET OBJ") for _ in range(2)] == ["OBJ 0\n", "OBJ 2\n"], "moving, then on something"


@pytest.mark.parametrize("words", ["", "GET", "GET XYZ", "SET POS", "SET POS 256", "SET POS -1", "SET STA 3", "HI"])
def test_gripper_refuses_nonsense(words):
    assert ask(ports.Gripper(Fingers()), words) == "?\n"


def test_start_values_fill_every_type():
    assert all(math.isfinite(x) for x in start_values()["joint_temperatures"])
