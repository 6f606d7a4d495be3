"""This module finds the largest values between the servo targets of a stream, in robot time."""

import itertools
from dataclasses import dataclass

import numpy as np

from protos.schema import F64
from twin.robots import UR5E
from twin.rotations import matrix_from_vector, turn_between


@dataclass(frozen=True)
class Target:
    """One servo target: the robot's time at which it was sent, how long it is to stand, TCP pose (6,), joints (6,)."""

    t: float
    slice_s: float
    pose: F64
    joints: F64


@dataclass
class Extremes:
    """The largest values between one streamed target and the next, in robot time."""

    pairs: int = 0
    speed_m_s: float = 0.0
    speed_rad_s: float = 0.0
    acceleration_m_s2: float = 0.0
    acceleration_rad_s2: float = 0.0
    """Both of targets that are faster than the ones before."""
    braking_m_s2: float = 0.0
    braking_rad_s2: float = 0.0
    """Both of slower ones."""
    joint_share: float = 0.0
    """Joint speed as a share of the data sheet's."""
    outside_m: float = 0.0
    """Farthest that a target lies outside the box, in a stream that began inside."""
    crawl_m_s: float = 0.0
    """Speed between targets of which the first is outside the box."""

    def add(self, stream: list[Target], low: F64, high: F64, slice_s: float, *, delayed: bool = False) -> None:
        """Looks at all targets of a stream.

        A target's velocity is its motion over the time since the one before, its own slice at most; one that comes
        after more than two slices of the stream starts from rest. An acceleration needs three targets.

        Times of `delayed` targets are those of their arrival: whatever comes in a bunch counts as if it stood for its
        slice, and accelerations are not looked at.
        """
        began_inside, velocity = False, np.zeros(6)
        for index, (a, b) in enumerate(itertools.pairwise(stream)):
            outside = float(np.maximum(low - a.pose[:3], a.pose[:3] - high).max())
            began_inside = began_inside or outside <= 1e-6
            if (gap := b.t - a.t) <= 0:
                continue  # refused: a protective stop
            gap = max(gap, b.slice_s) if delayed else gap
            motion = _motion(a, b)
            way, turn = np.linalg.norm(motion[:3]), np.linalg.norm(motion[3:])
            self.pairs += 1
            self.speed_m_s = max(self.speed_m_s, float(way) / gap)
            self.speed_rad_s = max(self.speed_rad_s, float(turn) / gap)
            shares = np.abs(b.joints - a.joints) / gap / UR5E.velocity_limits
            self.joint_share = max(self.joint_share, float(shares.max()))
            if began_inside:
                self.outside_m = max(self.outside_m, float(np.maximum(low - b.pose[:3], b.pose[:3] - high).max()))
            if outside > 1e-6:
                self.crawl_m_s = max(self.crawl_m_s, float(way) / gap)
            if delayed:
                continue
            credited = min(gap, b.slice_s)
            now = motion / credited
            before = np.zeros(6) if gap > 2 * slice_s + 1e-3 else velocity
            change = (now - before) / credited if index > 0 else np.zeros(6)
            for part, unit in ((slice(0, 3), "m_s2"), (slice(3, 6), "rad_s2")):
                is_faster = np.linalg.norm(now[part]) > np.linalg.norm(before[part])
                name = f"{'acceleration' if is_faster else 'braking'}_{unit}"
                setattr(self, name, max(getattr(self, name), float(np.linalg.norm(change[part]))))
            velocity = now


def _motion(a: Target, b: Target) -> F64:
    turn = turn_between(matrix_from_vector(a.pose[3:]), matrix_from_vector(b.pose[3:]))
    return np.concatenate([b.pose[:3] - a.pose[:3], turn])
