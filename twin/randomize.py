"""This module says how one world differs from another; the stand-in for the real arm is such a domain too.

The camera and colour shifts are constants of a domain; latency, light, white balance and the jitter of the cameras are
drawn anew for every episode (`twin.render.appearance` draws the latter three), sensor noise for every image. The
`disturbance` moves the arm off its path while a demonstration is made, so that it shows how to come back; the stored
action stays the clean one (DART, Laskey et al. 2017).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError

NOISE_MEMORY, NOISE_DRIVE = 0.6, 0.8
"""AR(1) noise z' = 0.6 z + 0.8 w has unit variance; neighbouring control steps push the same way."""
DEMONSTRATION_DISTURBANCE = 0.3
"""Strength used while demonstrations are made."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A domain is one world's dynamics and appearance."""

    latency_steps: tuple[int, ...] = (0, 1)
    """Control steps from an action to its effect; one is drawn per episode."""
    gain: float = 1.0
    """Effective over commanded displacement."""
    servo_stiffness: float = 1.0
    """Scale of the joint servos' stiffness."""
    friction: float = 1.5
    """Sliding friction of fingers and objects."""
    object_mass_kg: float = 0.05
    camera_shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Shift of the side camera, base frame."""
    colour_shift: float = 0.0
    """0 as scanned .. 1 strongly shifted."""
    exposure_stops: float = 0.0
    """Range of both cameras' exposure: every episode is brighter or darker by up to so many stops."""
    white_balance: float = 0.0
    """Every episode has up to this share more red and less blue, or less red and more blue."""
    sensor_noise: float = 0.0
    """Standard deviation of each pixel in each image, as a share of full scale."""
    camera_jitter_m: float = 0.0
    """Standard deviation per axis of where the cameras stand, drawn for every episode."""
    camera_jitter_rad: float = 0.0
    """Standard deviation of the directions in which they look, likewise."""
    camera_poses: int = 8
    """Poses that the side camera takes when it jitters: each costs a background, drawn and kept once."""
    disturbance: float = 0.0
    """Strength of the noise on the commanded motion, in units of the action."""

    def __post_init__(self) -> None:
        if not self.latency_steps or not all(0 <= steps <= 10 for steps in self.latency_steps):
            raise InputError(f"latency_steps={self.latency_steps}: one or more whole numbers from 0 to 10")
        for name, low, high in (
            ("gain", 0.1, 2.0),
            ("servo_stiffness", 0.05, 5.0),
            ("friction", 0.05, 5.0),
            ("object_mass_kg", 0.001, 5.0),
            ("colour_shift", 0.0, 1.0),
            ("exposure_stops", 0.0, 2.0),
            ("white_balance", 0.0, 0.5),
            ("sensor_noise", 0.0, 0.2),
            ("camera_jitter_m", 0.0, 0.05),
            ("camera_jitter_rad", 0.0, 0.1),
            ("camera_poses", 1, 64),
            ("disturbance", 0.0, 2.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name}={getattr(self, name)}: {low} to {high}")

    def shifted(self, colour: tuple[float, float, float], towards: tuple[float, float, float]) -> NDArray[np.float64]:
        """Returns a colour (3,) moved by the domain's colour shift."""
        return np.clip(np.asarray(colour) + self.colour_shift * np.asarray(towards), 0, 1)


DOMAINS: Mapping[str, Domain] = {
    "twin": Domain(),
    "standin": Domain(
        latency_steps=(1, 1, 2),
        gain=0.85,
        servo_stiffness=0.4,
        friction=0.9,
        object_mass_kg=0.09,
        camera_shift_m=(-0.003, -0.003, 0.003),
        colour_shift=0.05,
    ),
    "far": Domain(
        latency_steps=(1, 2, 2),
        gain=0.8,
        servo_stiffness=0.3,
        friction=0.7,
        object_mass_kg=0.15,
        camera_shift_m=(-0.012, -0.012, 0.01),
        colour_shift=0.3,
    ),
    "stiff": Domain(latency_steps=(0,), servo_stiffness=2.0),
    "varied": Domain(
        exposure_stops=0.5, white_balance=0.1, sensor_noise=0.01, camera_jitter_m=0.005, camera_jitter_rad=0.01
    ),
}
"""Domains by name.

    twin      the twin itself
    standin   the world that takes the real arm's place: a calibrated camera, other dynamics and latency
    far       one farther from the twin, its side camera 2 cm off its place
    stiff     an arm whose joints follow their servos within 40 ms: for measuring how an arm stops
    varied    the twin with light, colours, noise and cameras that vary from episode to episode
"""
TABLE_SHIFT = (-0.2, -0.1, 0.1)
"""Direction of the colour shift of everything that was scanned."""


def domain_named(name: str, latency_steps: Sequence[int] = ()) -> Domain:
    """Returns one of `DOMAINS`, with the latency of the arm at hand where one is given. Raises InputError."""
    if name not in DOMAINS:
        raise InputError(f"domain {name!r}: choose one of {', '.join(DOMAINS)}")
    return replace(DOMAINS[name], latency_steps=tuple(latency_steps)) if latency_steps else DOMAINS[name]


class Disturbance:
    """A disturbance is the noise of n slots on the channels of an action that move the tool."""

    def __init__(self, n: int, strength: float, rng: np.random.Generator, *, channels: int = 3) -> None:
        self._noise = np.zeros((n, channels))
        self._strength, self._rng = strength, rng

    def reset(self, slot: int) -> None:
        """Forgets the noise of one slot."""
        self._noise[slot] = 0

    def applied(self, motion: NDArray[np.floating]) -> NDArray[np.float64]:
        """Adds noise to the commanded motion (n, channels) in action units; less to a tool at rest."""
        if self._strength == 0:
            return np.asarray(motion, float)
        self._noise = NOISE_MEMORY * self._noise + NOISE_DRIVE * self._rng.normal(size=self._noise.shape)
        size = 0.15 + np.abs(motion).max(1, keepdims=True)
        return np.clip(motion + self._strength * size * self._noise, -1, 1)
