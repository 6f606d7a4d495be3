"""This module holds the limits between a policy and the arm. They are always on: no setting turns them off.

    wanted TCP pose ─► finite? ─► jump? ─► speed ─► yaw ─► ceiling (from the measured TCP) ─► work box ─► goal
                        refused    refused  clipped   clipped  clipped                          clipped     │
    measured: NaN, force, joints, box, following ─► held             actors.real.stream ◄──────────────────┘

What is clipped here is where a command may lead; how fast the streamed targets go there is limited in `stream`. They
complement the controller's safety system and do not replace it: the safety-rated limits (speed, force, planes) are set
at the teach pendant and must be tighter than what would hurt somebody. See docs/safety.md.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from protos.errors import ArmStopped, InputError
from protos.proprioception import tool_vector
from protos.schema import F64
from protos.settings import bounded
from protos.space import Box
from twin.rotations import matrix_from_vector, turn_between, vector_from_matrix, within_angle, within_yaw

CRAWL_M_S, CRAWL_RAD_S = 0.03, 0.15
"""A tool outside the work box comes back no faster than this."""


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """Bounds that a command to the arm must keep to."""

    ceiling_m: float = 0.1
    """Farthest commanded position from the measured one, along each axis. An arm that follows 0.3 s late at 0.3 m/s is
    9 cm behind its command."""
    ceiling_rad: float = 0.35
    """Largest angle between the commanded rotation and the measured one."""
    speed_m_s: float = 0.6
    speed_rad_s: float = 1.5
    acceleration_m_s2: float = 20.0
    """Change of the streamed targets' velocity. The largest step of a task, 3 cm, so takes 77 ms from rest to rest: a
    control period less the time in which a policy thinks. What the arm feels is smoothed by `arm.lookahead_s`."""
    acceleration_rad_s2: float = 50.0
    following_m: float = 0.15
    """Largest distance between streamed and measured position, along each axis, at which the arm is held."""
    following_rad: float = 0.6
    jump_m: float = 0.2
    """A target farther than this from the measured TCP is refused: it can only be a mistake."""
    joint_margin_rad: float = 0.1
    """Distance to the end of a joint's range at which the arm is held."""
    joint_range_rad: float = 2 * np.pi
    force_n: float = 80.0
    """External force at the TCP at which the arm is held."""
    clearance_m: float = 0.02
    """Least distance that targets leave between the arm and itself, the table and obstacles."""

    BOUNDS: ClassVar[Mapping[str, tuple[float, float]]] = {
        "ceiling_m": (0.005, 0.2),
        "ceiling_rad": (0.02, 0.7),
        "speed_m_s": (0.01, 1.0),
        "speed_rad_s": (0.05, 3.0),
        "acceleration_m_s2": (0.5, 20.0),
        "acceleration_rad_s2": (1.0, 50.0),
        "following_m": (0.01, 0.3),
        "following_rad": (0.05, 1.0),
        "jump_m": (0.01, 0.5),
        "joint_margin_rad": (0.05, 1.0),
        "joint_range_rad": (1.0, 2 * np.pi),
        "force_n": (1.0, 150.0),
        "clearance_m": (0.01, 0.1),
    }

    def __post_init__(self) -> None:
        bounded(self, "limits ", self.BOUNDS, note="; limits cannot be switched off")
        for name, lower in (("jump_m", "ceiling_m"), ("following_m", "ceiling_m"), ("following_rad", "ceiling_rad")):
            if not getattr(self, name) > getattr(self, lower):
                raise InputError(f"{name}={getattr(self, name)}: must be above {lower}={getattr(self, lower)}")


@dataclass
class Limits:
    """Applies the limits of one arm in one work box, and counts how often they acted."""

    box: Box
    """Box in which the TCP may be commanded; its yaw is not used."""
    settings: LimitSettings
    clipped: Counter[str] = field(default_factory=Counter)
    """Number of commands clipped by "speed", "yaw", "ceiling" and "box", slowed by "joints", "collision" and
    "crawl"; of targets that stopped harder than acceleration allows, as "hard stop"."""

    def __post_init__(self) -> None:
        self.low = np.array([self.box.x[0], self.box.y[0], self.box.z[0]])
        self.high = np.array([self.box.x[1], self.box.y[1], self.box.z[1]])

    def outside(self, position: F64) -> float:
        """Returns how far a position (3,) lies outside the work box [m], along its worst axis; 0 inside."""
        ways = [*(self.low - position).tolist(), *(position - self.high).tolist()]
        return math.nan if any(map(math.isnan, ways)) else max(0.0, *ways)

    def clip(self, target: F64, *, commanded: F64, measured: F64, period_s: float) -> F64:
        """Returns the nearest allowed TCP pose (6,).

        `commanded` is the pose commanded before, `measured` where the TCP is. Raises InputError for a target that is
        not finite and ArmStopped for one that jumps or when the TCP itself is out of the box.
        """
        self._refuse(target, measured)
        settings, before, at = self.settings, matrix_from_vector(commanded[3:]), matrix_from_vector(measured[3:])
        way, turn = target[:3] - commanded[:3], turn_between(before, matrix_from_vector(target[3:]))
        slow_way = within_angle(way, settings.speed_m_s * period_s)
        slow_turn = within_angle(turn, settings.speed_rad_s * period_s)
        self.clipped["speed"] += _differ(way, slow_way) or _differ(turn, slow_turn)
        wanted = matrix_from_vector(slow_turn) @ before
        rotation = within_yaw(wanted, before)
        self.clipped["yaw"] += _differ(wanted, rotation)
        ahead = turn_between(at, rotation)
        leashed = within_angle(ahead, settings.ceiling_rad)
        moved = commanded[:3] + slow_way
        position = between(moved, measured[:3] - settings.ceiling_m, measured[:3] + settings.ceiling_m)
        self.clipped["ceiling"] += _differ(moved, position) or _differ(ahead, leashed)
        self.clipped["box"] += _differ(position, boxed := between(position, self.low, self.high))
        rotation = matrix_from_vector(leashed) @ at
        return np.concatenate([boxed, tool_vector(vector_from_matrix(rotation))])

    def check_measured(self, *, t: float, joints: F64, pose: F64, velocity: F64, wrench: F64) -> str:
        """Returns the reason why the arm must be held now; empty when all is well.

        The arguments are a state of the arm: its clock [s], joints (6,), TCP pose, velocity and wrench (6,).
        """
        measured = {"clock": [t], "joints": joints, "pose": pose, "velocity": velocity, "wrench": wrench}
        for name, value in measured.items():
            numbers = np.asarray(value).tolist()
            if not all(map(math.isfinite, numbers)):
                return f"{name} measured as {numbers}: every number must be finite; see the pendant"
        limits = self.settings
        pressing = math.hypot(*wrench[:3].tolist())
        if pressing > limits.force_n:
            return f"force at the TCP {pressing:.0f} N (limit {limits.force_n:g} N): free the tool"
        margin = limits.joint_range_rad - max(map(abs, joints.tolist()))
        if margin < limits.joint_margin_rad:
            joint = int(np.abs(joints).argmax())
            return f"joint {joint + 1} at {np.degrees(joints[joint]):.0f} degrees, the end of its range: jog it back"
        if (outside := self.outside(pose[:3])) > limits.ceiling_m:
            return f"the tool is {outside * 100:.1f} cm outside the work box: jog it back inside"
        return ""

    def check_following(self, streamed: F64, measured: F64) -> str:
        """Returns the reason to hold an arm that is at `measured` (6,) while `streamed` (6,) was asked for."""
        behind = max(map(abs, (streamed[:3] - measured[:3]).tolist()))
        if behind > self.settings.following_m:
            limit = self.settings.following_m * 100
            return f"the tool is {behind * 100:.1f} cm from where it was told to be (limit {limit:g} cm)"
        lag = angle_between(streamed, measured)
        if lag > self.settings.following_rad:
            limit = np.degrees(self.settings.following_rad)
            return f"the tool is {np.degrees(lag):.0f} degrees from where it was told to be (limit {limit:.0f} degrees)"
        return ""

    def _refuse(self, target: F64, measured: F64) -> None:
        if not np.isfinite(target).all():
            raise InputError(f"TCP target {np.round(target, 4).tolist()}: every number must be finite")
        jump = float(np.abs(target[:3] - measured[:3]).max())
        if not jump <= self.settings.jump_m:
            raise ArmStopped(
                f"refused a target {jump * 100:.1f} cm from the tool (limit {self.settings.jump_m * 100:g} cm): "
                "check frames and units of the commands, then start again"
            )
        if (outside := self.outside(measured[:3])) > self.settings.ceiling_m:
            raise ArmStopped(f"the tool is {outside * 100:.1f} cm outside the work box: jog it back inside")


def between(position: F64, low: F64, high: F64) -> F64:
    """Returns what `np.clip` does, in a third of its time for so few numbers."""
    return np.minimum(np.maximum(position, low), high)


def _differ(before: F64, after: F64) -> bool:
    """Returns True where a limit has changed a number."""
    return max(map(abs, (after - before).ravel().tolist())) > 1e-9


def angle_between(a: F64, b: F64) -> float:
    """Returns the angle [rad] between the rotations of two poses (6,)."""
    apart = (matrix_from_vector(a[3:]) - matrix_from_vector(b[3:])).ravel()
    chord = math.sqrt(apart @ apart)  # 2 sqrt(2) sin(angle/2)
    return 2 * math.asin(min(chord / math.sqrt(8), 1.0))
