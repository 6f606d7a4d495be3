"""This module draws the appearance of each slot's images in an episode: light, colour, noise, camera poses.

A slot's appearance depends on (seed, slot, number of its episode) alone: not on other slots, threads or the order of
resets. The side camera takes one of a few poses, so that its background can be drawn once per pose.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from protos.schema import F32, F64
from twin.camera import pose_of
from twin.randomize import Domain, Span
from twin.rotations import matrix_from_vector

DISPLAY_GAMMA = 2.2
"""Images are display-referred: twice the light is 2^(1/2.2) times the value."""


class Appearance(NamedTuple):
    """The appearance of one slot's images in one episode."""

    side_pose: int  # which of `Appearances.side_poses`
    wrist_pose: F64  # (4, 4) actual_from_mounted
    gains: F32  # (3,) on r, g, b
    noise: int  # seed of its first image's noise
    strength: float  # standard deviation of the noise, as a share of full scale
    tints: F32  # (1 + painted, 3) added to the colours of what stands still, and of each body that is painted


@dataclass(frozen=True, kw_only=True)
class _Jitter:
    metres: float
    radians: float

    def draw(self, rng: np.random.Generator) -> F64:
        """Draws a small motion (4, 4) of a camera in its own frame: each coordinate normal, at most 2.5 sigma."""
        numbers = np.clip(rng.normal(size=6), -2.5, 2.5)
        return pose_of(self.metres * numbers[:3], matrix_from_vector(self.radians * numbers[3:]))


class Appearances:
    """The appearances of n slots."""

    def __init__(self, n: int, domain: Domain, seed: int, *, painted: int = 0) -> None:
        """Draws for n slots; `painted` is the number of bodies with a colour of their own."""
        self._domain, self._seed, self._painted = domain, seed, painted
        self._jitter = _Jitter(metres=domain.camera_jitter_m, radians=domain.camera_jitter_rad)
        rng = np.random.default_rng((seed, n))
        still = domain.camera_jitter_m == domain.camera_jitter_rad == 0
        self.side_poses: list[F64] = [self._jitter.draw(rng) for _ in range(1 if still else domain.camera_poses)]
        """Poses calibrated_from_actual (4, 4)."""
        self._episodes, self._images = np.full(n, -1), np.zeros(n, int)
        self._current = [self._next(slot) for slot in range(n)]

    def __getitem__(self, slot: int) -> Appearance:
        return self._current[slot]

    def reset(self, slot: int) -> None:
        """Draws the appearance of the next episode of one slot."""
        self._current[slot] = self._next(slot)

    def noise_seed(self, slot: int) -> int:
        """Returns the seed of the noise of the next image of one slot."""
        self._images[slot] += 1
        return self._current[slot].noise + int(self._images[slot])

    def _next(self, slot: int) -> Appearance:
        self._episodes[slot], self._images[slot] = self._episodes[slot] + 1, 0
        domain, rng = self._domain, np.random.default_rng((self._seed, slot, int(self._episodes[slot])))
        light, warmth = rng.uniform(-1, 1, 2)
        gain = 2.0 ** (_within(domain.exposure_stops, light) / DISPLAY_GAMMA)
        tint = _within(domain.white_balance, warmth) * np.array([1.0, 0.0, -1.0])
        return Appearance(
            side_pose=int(rng.integers(len(self.side_poses))),
            wrist_pose=self._jitter.draw(rng),
            gains=(gain * (1 + tint)).astype(np.float32),
            noise=int(rng.integers(1 << 31)),
            strength=_within(domain.sensor_noise, rng.uniform(-1, 1)),
            tints=(domain.colour_jitter * rng.uniform(-1, 1, (1 + self._painted, 3))).astype(np.float32),
        )


def _within(span: Span, place: float) -> float:
    """Returns the value at a place from -1, the lower end, to 1, the upper end."""
    return (span[0] + span[1]) / 2 + place * (span[1] - span[0]) / 2
