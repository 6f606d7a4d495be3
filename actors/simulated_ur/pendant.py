"""This module says what a teach pendant knows of its robot: power, safety, control, tool, load, speed, software.

    settings of the stand-in ──┐
    lab ("pendant") ───────────┼──► Pendant ──► Controller.set_pendant ──► RTDE variables, kinematics, motion
    dashboard, script, RTDE io ┘

Sources: Universal Robots, "Dashboard Server e-Series, port 29999", and "Real-Time Data Exchange (RTDE) Guide", tables
of robot modes, safety modes and status bits.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from protos.errors import InputError

Power = Literal["POWER_OFF", "IDLE", "RUNNING"]
Safety = Literal[
    "NORMAL",
    "REDUCED",
    "PROTECTIVE_STOP",
    "RECOVERY",
    "SAFEGUARD_STOP",
    "SYSTEM_EMERGENCY_STOP",
    "ROBOT_EMERGENCY_STOP",
    "VIOLATION",
    "FAULT",
]
"""Safety modes in the order of their RTDE numbers, which count from 1."""
ROBOT_MODES: dict[Power, int] = {"POWER_OFF": 3, "IDLE": 5, "RUNNING": 7}
SAFETY_MODES = {name: number for number, name in enumerate(get_args(Safety), start=1)}
_SAFETY_BITS = {name: number - 1 for name, number in SAFETY_MODES.items()} | {"VIOLATION": 8, "FAULT": 9}
_EMERGENCY_BIT, _STOPPED_BIT = 7, 10
_WITHOUT_POWER = ("SYSTEM_EMERGENCY_STOP", "ROBOT_EMERGENCY_STOP", "VIOLATION", "FAULT")
Version = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Pendant:
    """One state of a pendant. What is None is as the robot's model says."""

    power: Power = "RUNNING"
    safety: Safety = "NORMAL"
    is_remote: bool = True
    """False: the pendant has the control, and scripts from outside are ignored."""
    tcp_offset: tuple[float, float, float, float, float, float] | None = None
    """Pose of the tool in the flange's frame [m, rotation vector]."""
    payload_kg: float | None = None
    payload_cog_m: tuple[float, float, float] | None = None
    """Centre of gravity in the flange's frame."""
    force_bias: tuple[float, float, float, float, float, float] = (0.0,) * 6
    """Wrench that the sensor shows when nothing touches the tool, until it is zeroed [N, Nm]."""
    speed_slider: float = 1.0
    software: str = "5.15.0.0"
    """PolyScope's version; 3.x is a CB3."""
    model: str = "UR5"
    gripper_fault: int = 0
    """Fault that the gripper reports, as its register FLT."""

    def __post_init__(self) -> None:
        parts = self.software.split(".")
        if len(parts) != 4 or not all(part.isdigit() for part in parts):
            raise InputError(f"pendant software={self.software!r}: four numbers, such as 5.15.0.0 or 3.15.8.0")
        if not 0 <= self.speed_slider <= 1:
            raise InputError(f"pendant speed_slider={self.speed_slider}: a share, 0 to 1")
        numbers = (*(self.tcp_offset or ()), self.payload_kg or 0.0, *(self.payload_cog_m or ()), *self.force_bias)
        if not all(math.isfinite(number) for number in numbers):
            raise InputError(f"pendant {self}: every number must be finite")

    @property
    def version(self) -> Version:
        """The software's version as numbers."""
        major, minor, patch, build = (int(part) for part in self.software.split("."))
        return major, minor, patch, build

    @property
    def is_powered(self) -> bool:
        """True while the arm has power; emergency stops, violations and faults take it."""
        return self.power != "POWER_OFF" and self.safety not in _WITHOUT_POWER

    @property
    def mode(self) -> Power:
        """The robot's mode."""
        return self.power if self.is_powered else "POWER_OFF"

    @property
    def may_run(self) -> bool:
        """True while a program may run and the arm may move."""
        return self.mode == "RUNNING" and self.safety in ("NORMAL", "REDUCED")

    @property
    def safety_bits(self) -> int:
        """The RTDE variable safety_status_bits."""
        bits = 1 << _SAFETY_BITS[self.safety]
        if self.safety.endswith("EMERGENCY_STOP"):
            bits |= 1 << _EMERGENCY_BIT
        if self.safety not in ("NORMAL", "REDUCED"):
            bits |= 1 << _STOPPED_BIT
        return bits
