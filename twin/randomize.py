"""This module says how one world differs from another; the stand-in for the real arm is such a domain too.

    Domain ─ Draws: by seed, slot and number of the episode ─► Conditions of one episode ─► physics, latency, delay

A domain is a distribution. What has a `Span` is drawn anew for every episode, evenly between two ends; equal ends make
a constant. `twin.render.appearance` draws the light, the colours and the jitter of the cameras in the same way, and
noise is drawn for every image. The `disturbance` moves the arm off its path while a demonstration is made, so that it
shows how to come back; the stored action stays the clean one (DART, Laskey et al. 2017).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError
from protos.schema import F64

Number = TypeVar("Number", int, float)
Span = tuple[float, float]
"""Lowest and highest value of what is drawn for every episode; equal ends make a constant."""
NOISE_MEMORY, NOISE_DRIVE = 0.6, 0.8
"""AR(1) noise z' = 0.6 z + 0.8 w has unit variance; neighbouring control steps push the same way."""
DEMONSTRATION_DISTURBANCE = 0.3
"""Strength used while demonstrations are made."""
_CONDITIONS = 1
"""Last word of the seeds of conditions; the seeds of appearances are shorter."""
_STEPS = (0, 10)
_BOUNDS: Mapping[str, Span] = {
    "gain": (0.1, 2.0),
    "response": (0.05, 1.0),
    "servo_stiffness": (0.05, 5.0),
    "friction": (0.05, 5.0),
    "object_mass_kg": (0.001, 5.0),
    "object_size": (0.5, 2.0),
    "object_height": (0.5, 2.0),
    "exposure_stops": (-2.0, 2.0),
    "white_balance": (-0.5, 0.5),
    "sensor_noise": (0.0, 0.2),
    "colour_shift": (0.0, 1.0),
    "colour_jitter": (0.0, 0.5),
    "camera_jitter_m": (0.0, 0.05),
    "camera_jitter_rad": (0.0, 0.1),
    "camera_poses": (1, 64),
    "disturbance": (0.0, 2.0),
}


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The conditions of one episode are what its domain drew for one slot; `Domain` says what they mean."""

    latency_steps: float
    camera_delay_steps: int
    gain: float
    response: float
    servo_stiffness: float
    friction: float
    object_mass_kg: float
    object_size: float
    object_height: float
    colour_shift: float

    def shifted(self, colour: tuple[float, float, float], towards: tuple[float, float, float]) -> NDArray[np.float64]:
        """Returns a colour (3,) moved by the domain's colour shift."""
        return np.clip(np.asarray(colour) + self.colour_shift * np.asarray(towards), 0, 1)

    def scale(self, *, free: bool) -> F64:
        """Returns the size (3,) of a task's body over its size in the task, along the body's axes.

        A free body is higher by `object_height` too, a target is not.
        """
        return self.object_size * np.array([1.0, 1.0, self.object_height if free else 1.0])

    @property
    def unscaled(self) -> "Conditions":
        """These conditions with bodies as large as in the task."""
        return replace(self, object_size=1.0, object_height=1.0)


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A domain is one world's dynamics and appearance, and how far they vary from episode to episode."""

    latency_steps: tuple[float, ...] = (0, 1)
    """Control steps from an action to its effect, to a fifth of a step; one is drawn per episode."""
    camera_delay_steps: tuple[int, ...] = (0,)
    """Age of the images in control steps; one is drawn per episode."""
    gain: Span = (1.0, 1.0)
    """Effective over commanded displacement."""
    response: Span = (1.0, 1.0)
    """Share of the way to what is commanded that the servos' set points make in one control step."""
    servo_stiffness: Span = (1.0, 1.0)
    """Scale of the joint servos' stiffness."""
    friction: Span = (1.5, 1.5)
    """Sliding friction of fingers and objects."""
    object_mass_kg: Span = (0.05, 0.05)
    object_size: Span = (1.0, 1.0)
    """Size of the task's bodies, objects and targets, over that in the task."""
    object_height: Span = (1.0, 1.0)
    """Height of the objects over what their size makes it: a shape that differs."""
    camera_shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Shift of the side camera, base frame."""
    colour_shift: float = 0.0
    """0 as scanned .. 1 strongly shifted."""
    colour_jitter: float = 0.0
    """Every episode's table, and each of the task's bodies, has up to this much more or less red, green and blue."""
    exposure_stops: Span = (0.0, 0.0)
    """Exposure of both cameras, in stops above what was scanned."""
    white_balance: Span = (0.0, 0.0)
    """Share of red more, and of blue less, than was scanned; less than 0 is the other way round."""
    sensor_noise: Span = (0.0, 0.0)
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
        for name in ("latency_steps", "camera_delay_steps"):
            steps = getattr(self, name)
            if not steps or not all(_STEPS[0] <= step <= _STEPS[1] for step in steps):
                raise InputError(f"{name}={steps}: one or more numbers from {_STEPS[0]} to {_STEPS[1]}")
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if name not in SPANS and not low <= value <= high:
                raise InputError(f"{name}={value}: {low} to {high}")
            if name in SPANS and not _is_span(value, low, high):
                raise InputError(f"{name}={value}: two numbers from {low} to {high}, the second not below the first")

    @property
    def is_prompt(self) -> bool:
        """Returns True if commands take effect at the beginning of a control step, and at once."""
        return self.response[0] == 1.0 and all(step == int(step) for step in self.latency_steps)

    def varies(self, *names: str) -> tuple[str, ...]:
        """Returns those of some spans that differ between episodes."""
        return tuple(name for name in names if getattr(self, name)[0] != getattr(self, name)[1])

    def conditions(self, rng: np.random.Generator) -> Conditions:
        """Draws the conditions of an episode."""
        latency, delay, *shares = rng.random(2 + len(_DRAWN)).tolist()
        return self._at(shares, latency, delay)

    @cached_property
    def middle(self) -> Conditions:
        """Conditions in the middle of every span."""
        return self._at([0.5] * len(_DRAWN), 0.5, 0.5)

    @cached_property
    def still(self) -> "Domain":
        """The domain in whose every episode the conditions are the middle ones and the images the same.

        The steps of latency and of the cameras' delay stay choices, because they are whole numbers.
        """
        middles: dict[str, Any] = {name: (_between(getattr(self, name), 0.5),) * 2 for name in SPANS}
        middles |= {"colour_jitter": 0.0, "camera_jitter_m": 0.0, "camera_jitter_rad": 0.0, "sensor_noise": (0.0, 0.0)}
        return replace(self, **middles)

    def _at(self, shares: Sequence[float], latency: float, delay: float) -> Conditions:
        values = {name: _between(getattr(self, name), share) for name, share in zip(_DRAWN, shares, strict=True)}
        return Conditions(
            latency_steps=_chosen(self.latency_steps, latency),
            camera_delay_steps=_chosen(self.camera_delay_steps, delay),
            colour_shift=self.colour_shift,
            **values,
        )


SPANS = frozenset(each.name for each in fields(Domain) if each.type == Span)
"""Names of what is drawn for every episode between two ends."""
OF_MODEL = ("servo_stiffness", "friction", "object_mass_kg", "object_size", "object_height")
"""Spans that a physics engine has in its model."""
_DRAWN = ("gain", *OF_MODEL, "response")
"""Names of what is drawn, in its order: a new one comes last and changes no other."""
LATENCY_PARTS = 5
"""Latencies are whole parts of a control step: of 20 ms, as the slices in which a simulated arm moves."""


def _is_span(value: object, low: float, high: float) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and low <= value[0] <= value[1] <= high


def _between(span: Span, share: float) -> float:
    """Returns the value at a share of the way from the lower to the upper end."""
    return span[0] + share * (span[1] - span[0])


def _chosen(steps: Sequence[Number], share: float) -> Number:
    return steps[min(math.floor(share * len(steps)), len(steps) - 1)]


class Draws:
    """Draws are the conditions of n slots, episode by episode.

    They depend on (seed, slot, number of the slot's episode) alone: not on other slots or the order of resets.
    """

    def __init__(self, n: int, domain: Domain, seed: int) -> None:
        self._domain, self._seed = domain, seed
        self._episodes = np.full(n, -1)

    def next(self, slot: int) -> Conditions:
        """Draws the conditions of the next episode of one slot."""
        self._episodes[slot] += 1
        rng = np.random.default_rng((self._seed, slot, int(self._episodes[slot]), _CONDITIONS))
        return self._domain.conditions(rng)


DOMAINS: Mapping[str, Domain] = {
    "twin": Domain(),
    "standin": Domain(
        latency_steps=(1, 1, 2),
        gain=(0.85, 0.85),
        servo_stiffness=(0.4, 0.4),
        friction=(0.9, 0.9),
        object_mass_kg=(0.09, 0.09),
        camera_shift_m=(-0.003, -0.003, 0.003),
        colour_shift=0.05,
    ),
    "far": Domain(
        latency_steps=(1, 2, 2),
        gain=(0.8, 0.8),
        servo_stiffness=(0.3, 0.3),
        friction=(0.7, 0.7),
        object_mass_kg=(0.15, 0.15),
        camera_shift_m=(-0.012, -0.012, 0.01),
        colour_shift=0.3,
    ),
    "stiff": Domain(latency_steps=(0,), servo_stiffness=(2.0, 2.0)),
    "varied": Domain(
        latency_steps=(0, 1, 2),
        exposure_stops=(-0.5, 0.5),
        white_balance=(-0.1, 0.1),
        sensor_noise=(0.02, 0.02),
        camera_jitter_m=0.004,
        camera_jitter_rad=0.006,
    ),
    "wide": Domain(
        latency_steps=(0, 1, 2, 3),
        camera_delay_steps=(0, 1),
        gain=(0.85, 1.1),
        servo_stiffness=(0.4, 1.1),
        friction=(1.0, 1.8),
        object_mass_kg=(0.03, 0.09),
        object_size=(0.95, 1.05),
        object_height=(0.97, 1.03),
        colour_jitter=0.05,
        exposure_stops=(-0.7, 0.7),
        white_balance=(-0.2, 0.2),
        sensor_noise=(0.02, 0.02),
        camera_jitter_m=0.02,
        camera_jitter_rad=0.02,
    ),
}
"""Domains by name.

    twin      the twin itself, the same in every episode but for its latency
    standin   the world that takes the real arm's place: a calibrated camera, other dynamics and latency
    far       one farther from the twin, its side camera 2 cm off its place
    stiff     an arm whose joints follow their servos within 40 ms: for measuring how an arm stops
    varied    a run's twin: latency, light, colours and cameras vary from episode to episode, the cameras as far as a
              calibration may be wrong: twins that shook them by 2 cm taught no insertion
    wide      dynamics, objects and the delay of the images vary too, more than the demo's policy learns in its steps
"""
TABLE_SHIFT = (-0.2, -0.1, 0.1)
"""Direction of the colour shift of everything that was scanned."""


def domain_named(name: str) -> Domain:
    """Returns one of `DOMAINS`. Raises InputError."""
    if name not in DOMAINS:
        raise InputError(f"domain {name!r}: choose one of {', '.join(DOMAINS)}")
    return DOMAINS[name]


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
