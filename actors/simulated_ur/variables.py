"""The RTDE variables of a controller: names, wire types, start values.

Source: Universal Robots, "Real-Time Data Exchange (RTDE) Guide", tables of robot controller inputs and outputs.
"""

import re
from dataclasses import dataclass
from typing import Any

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
    """The RTDE type of a variable, None when a controller does not have it."""
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
    """Every variable of a powered robot whose program does not run yet."""
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
