"""This module holds the limits between a policy and the arm. They are always on: no setting turns them off.

    wanted TCP pose ──► finite? ──► jump? ──► speed ──► ceiling (from the measured TCP) ──► work box ──► servo
                         refused     refused   clipped   clipped                            clipped

They complement the controller's safety system and do not replace it: the safety-rated limits (speed, force, planes) are
set at the teach pendant and must be tighter than what would hurt somebody. See docs/safety.md.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from protos.errors import ArmStopped, InputError
from protos.schema import F64
from protos.space import Box


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """Bounds that a command to the arm must keep to."""

    ceiling_m: float = 0.1
    """Farthest commanded position from the measured one, along each axis. An arm that follows 0.3 s late at 0.3 m/s is
    9 cm behind its command."""
    ceiling_rad: float = 0.35
    """Farthest commanded rotation from the measured one, along each axis of the rotation vector."""
    speed_m_s: float = 0.6
    speed_rad_s: float = 1.5
    jump_m: float = 0.2
    """A target farther than this from the measured TCP is refused: it can only be a mistake."""
    joint_margin_rad: float = 0.1
    """Distance to the end of a joint's range at which the arm is held."""
    joint_range_rad: float = 2 * np.pi
    force_n: float = 80.0
    """External force at the TCP at which the arm is held."""

    def __post_init__(self) -> None:
        for name in ("ceiling_m", "ceiling_rad", "speed_m_s", "speed_rad_s", "jump_m", "force_n"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)}: must be above 0; limits cannot be switched off")
        if not self.jump_m > self.ceiling_m:
            raise InputError(f"jump_m={self.jump_m}: must be above ceiling_m={self.ceiling_m}")


@dataclass
class Limits:
    """Applies the limits of one arm in one work box, and counts how often they acted."""

    box: Box
    """Box in which the TCP may be commanded; its yaw is not used."""
    settings: LimitSettings
    clipped: Counter[str] = field(default_factory=Counter)
    """Number of commands clipped by "speed", "ceiling" and "box"."""

    def __post_init__(self) -> None:
        self.low = np.array([self.box.x[0], self.box.y[0], self.box.z[0]])
        self.high = np.array([self.box.x[1], self.box.y[1], self.box.z[1]])

    def outside(self, position: F64) -> float:
        """Returns how far a position (3,) lies outside the work box [m], along its worst axis; 0 inside."""
        return float(np.maximum(self.low - position, position - self.high).max(initial=0.0))

    def clip(self, target: F64, *, commanded: F64, measured: F64, period_s: float) -> F64:
        """Returns the nearest allowed TCP pose (6,).

        `commanded` is the pose commanded before, `measured` where the TCP is. Raises InputError for a target that is
        not finite and ArmStopped for one that jumps or when the TCP itself is out of the box.
        """
        self._refuse(target, measured)
        result = self._count("speed", target, commanded + self._within_speed(target - commanded, period_s))
        reach = np.repeat([self.settings.ceiling_m, self.settings.ceiling_rad], 3)
        result = self._count("ceiling", result, np.clip(result, measured - reach, measured + reach))
        boxed = result.copy()
        boxed[:3] = np.clip(result[:3], self.low, self.high)
        return self._count("box", result, boxed)

    def check_measured(self, position: F64, joints: F64, force: F64) -> str:
        """Returns the reason why the arm must be held now; empty when all is well."""
        limits = self.settings
        pressing = float(np.linalg.norm(force))
        if pressing > limits.force_n:
            return f"force at the TCP {pressing:.0f} N (limit {limits.force_n:g} N): free the tool"
        margin = limits.joint_range_rad - float(np.abs(joints).max())
        if margin < limits.joint_margin_rad:
            joint = int(np.abs(joints).argmax())
            return f"joint {joint + 1} at {np.degrees(joints[joint]):.0f} degrees, the end of its range: jog it back"
        if (outside := self.outside(position)) > limits.ceiling_m:
            return f"the tool is {outside * 100:.1f} cm outside the work box: jog it back inside"
        return ""

    def _refuse(self, target: F64, measured: F64) -> None:
        if not np.isfinite(target).all():
            raise InputError(f"TCP target {np.round(target, 4).tolist()}: every number must be finite")
        jump = float(np.abs(target[:3] - measured[:3]).max())
        if jump > self.settings.jump_m:
            raise ArmStopped(
                f"refused a target {jump * 100:.1f} cm from the tool (limit {self.settings.jump_m * 100:g} cm): "
                "check frames and units of the commands, then start again"
            )
        if (outside := self.outside(measured[:3])) > self.settings.ceiling_m:
            raise ArmStopped(f"the tool is {outside * 100:.1f} cm outside the work box: jog it back inside")

    def _within_speed(self, change: F64, period_s: float) -> F64:
        result = change.copy()
        for part, speed in ((slice(0, 3), self.settings.speed_m_s), (slice(3, 6), self.settings.speed_rad_s)):
            length = float(np.linalg.norm(change[part]))
            result[part] *= min(1.0, speed * period_s / max(length, 1e-12))
        return result

    def _count(self, name: str, before: F64, after: F64) -> F64:
        self.clipped[name] += bool(np.abs(after - before).max() > 1e-9)
        return after
