"""This module draws labs.

Every quantity has a distribution of its own and a random stream of its own, so that a new quantity changes no other;
values are rounded, so that they are the same on every machine. Results use the seeds below `FIRST_TUNING_SEED`,
choices of the distributions those from there on.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from protos.errors import InputError
from twin.labs.lab import Calibration, Drive, Lab, Triple
from twin.labs.surroundings import Shadow, Surroundings, Thing
from twin.randomize import Domain, Span, domain_named
from twin.surfaces import Light
from twin.tasks import Task

FIRST_TUNING_SEED = 1000
DECIMALS = 5


@dataclass(frozen=True)
class Normal:
    """A normal distribution, cut off at 2.5 standard deviations."""

    deviation: float
    mean: float = 0.0

    def draw(self, rng: np.random.Generator) -> float:
        return self.mean + self.deviation * float(np.clip(rng.normal(), -2.5, 2.5))


@dataclass(frozen=True)
class Uniform:
    """An even distribution between two ends."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class Logarithmic:
    """A distribution whose logarithm is even: a half is as likely as a double."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        return self.low * (self.high / self.low) ** float(rng.random())


DISTRIBUTIONS: Mapping[str, Normal | Uniform | Logarithmic] = {
    "base_x_m": Normal(0.003),
    "base_y_m": Normal(0.003),
    "base_z_m": Normal(0.001),
    "base_lean_x_rad": Normal(0.0015),
    "base_lean_y_rad": Normal(0.0015),
    "base_yaw_rad": Normal(0.006),
    "tool_x_m": Normal(0.001),
    "tool_y_m": Normal(0.001),
    "tool_z_m": Normal(0.001),
    "side_x_m": Normal(0.005),
    "side_y_m": Normal(0.005),
    "side_z_m": Normal(0.005),
    "side_pan_rad": Normal(0.008),
    "side_tilt_rad": Normal(0.008),
    "side_fovy_deg": Normal(0.5),
    "wrist_x_rad": Normal(0.01),
    "wrist_y_rad": Normal(0.01),
    "wrist_z_rad": Normal(0.01),
    "servo_delay_s": Uniform(0.05, 0.22),
    "servo_jitter_s": Uniform(0.0, 0.015),
    "camera_delay_s": Uniform(0.02, 0.12),
    "camera_jitter_s": Uniform(0.0, 0.01),
    "gripper_speed": Uniform(0.9, 1.8),
    "grip_force": Logarithmic(0.8, 1.25),
    "gain": Uniform(0.7, 0.95),
    "servo_stiffness": Logarithmic(0.2, 0.8),
    "friction": Logarithmic(0.5, 1.3),
    "object_mass_kg": Logarithmic(0.04, 0.25),
    "object_size": Uniform(-1.0, 1.0),
    "object_height": Uniform(0.97, 1.03),
    "colour_shift": Uniform(0.0, 0.4),
    "tint_red": Normal(0.03),
    "tint_green": Normal(0.03),
    "tint_blue": Normal(0.03),
    "exposure_stops": Normal(0.25),
    "white_balance": Normal(0.05),
    "sensor_noise": Uniform(0.005, 0.02),
    "blur": Uniform(0.0, 0.012),
    "light_azimuth_rad": Uniform(-math.pi, math.pi),
    "light_height_rad": Uniform(0.6, 1.3),
    "light_ambient": Uniform(0.5, 0.75),
    "light_slope": Uniform(0.0, 0.4),
    "shadows": Uniform(0.0, 3.0),
    "shadow_x_m": Uniform(-0.75, -0.25),
    "shadow_y_m": Uniform(-0.35, 0.35),
    "shadow_radius_m": Uniform(0.06, 0.2),
    "shadow_depth": Uniform(0.1, 0.35),
    "things": Uniform(1.0, 6.0),
    "thing_along": Uniform(0.0, 1.0),
    "thing_half_m": Uniform(0.015, 0.045),
    "thing_colour": Uniform(0.05, 0.95),
    "hand": Uniform(0.0, 1.0),
    "hand_x_m": Uniform(-0.70, -0.40),
    "hand_reach_m": Uniform(0.25, 0.33),
    "skin": Uniform(0.35, 0.95),
}
"""Distributions of what differs between a twin and its workspace; docs/labs.md gives each its unit and its reason."""
EPISODE_STOPS, EPISODE_BALANCE, EPISODE_TINT = 0.1, 0.02, 0.02
"""Changes from episode to episode within a lab: daylight, the cameras' automatics, other copies of the objects."""
HAND_SHARE = 0.6
"""Share of labs in which a person's arm lies at the edge of the side camera's image."""


class _Draw:
    """Draws the quantities of one lab, each from its own stream."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, name: str, number: int = 0) -> float:
        rng = np.random.default_rng((self._seed, zlib.crc32(name.encode()), number))
        return round(DISTRIBUTIONS[name].draw(rng), DECIMALS)

    def triple(self, names: str, unit: str) -> Triple:
        """Returns three quantities that differ by a letter, as in `base_x_m`."""
        return (self(f"{names}_x_{unit}"), self(f"{names}_y_{unit}"), self(f"{names}_z_{unit}"))


def draw_lab(seed: int, task: Task) -> Lab:
    """Returns the lab of a seed for a task: the same lab, with the task's own objects. Raises InputError."""
    if not 0 <= seed < 2**31:
        raise InputError(f"lab {seed}: a seed from 0 to {2**31 - 1}")
    draw = _Draw(seed)
    return Lab(
        name=str(seed),
        domain=_domain(draw, task),
        calibration=Calibration(
            base_shift_m=draw.triple("base", "m"),
            base_turn_rad=(draw("base_lean_x_rad"), draw("base_lean_y_rad"), draw("base_yaw_rad")),
            tool_shift_m=draw.triple("tool", "m"),
            side_shift_m=draw.triple("side", "m"),
            side_turn_rad=(draw("side_pan_rad"), draw("side_tilt_rad")),
            side_fovy_deg=draw("side_fovy_deg"),
            wrist_turn_rad=draw.triple("wrist", "rad"),
        ),
        drive=Drive(
            **{name: draw(name) for name in ("servo_delay_s", "servo_jitter_s", "camera_delay_s", "camera_jitter_s")},
            gripper_speed=draw("gripper_speed"),
            grip_force=draw("grip_force"),
        ),
        surroundings=_surroundings(draw),
    )


def get(name: str, task: Task) -> Lab:
    """Returns the lab with this seed, or of the domain with this name. Raises InputError."""
    return draw_lab(int(name), task) if name.isdigit() else Lab(name=name, domain=domain_named(name))


def _domain(draw: _Draw, task: Task) -> Domain:
    stops, balance = draw("exposure_stops"), draw("white_balance")
    size = round(1 + draw("object_size") * task.precision_m / 0.04, DECIMALS)
    return Domain(
        latency_steps=(0,),
        gain=_around(draw("gain")),
        servo_stiffness=_around(draw("servo_stiffness")),
        friction=_around(draw("friction")),
        object_mass_kg=_around(draw("object_mass_kg")),
        object_size=_around(size),
        object_height=_around(draw("object_height")),
        sensor_noise=_around(draw("sensor_noise")),
        colour_shift=draw("colour_shift"),
        colour_jitter=EPISODE_TINT,
        exposure_stops=_around(stops, EPISODE_STOPS),
        white_balance=_around(balance, EPISODE_BALANCE),
    )


def _around(middle: float, far: float = 0.0) -> Span:
    return round(middle - far, DECIMALS), round(middle + far, DECIMALS)


def _surroundings(draw: _Draw) -> Surroundings:
    azimuth, height, slope = draw("light_azimuth_rad"), draw("light_height_rad"), draw("light_slope")
    towards = (math.cos(azimuth) * math.cos(height), math.sin(azimuth) * math.cos(height), math.sin(height))
    light = Light(towards=(_r(towards[0]), _r(towards[1]), _r(towards[2])), ambient=draw("light_ambient"))
    things = tuple(_thing(draw, number) for number in range(int(draw("things"))))
    shadows = [
        Shadow(
            place=(draw("shadow_x_m", number), draw("shadow_y_m", number)),
            radius_m=draw("shadow_radius_m", number),
            depth=draw("shadow_depth", number),
        )
        for number in range(int(draw("shadows")))
    ]
    if draw("hand") < HAND_SHARE:
        things += _hand(draw)
    return Surroundings(
        light=light,
        slope=(round(slope * math.cos(azimuth), DECIMALS), round(slope * math.sin(azimuth), DECIMALS)),
        tint=(draw("tint_red"), draw("tint_green"), draw("tint_blue")),
        blur=draw("blur"),
        shadows=(*shadows, *(_shadow_of(thing, light) for thing in things)),
        things=things,
    )


def _thing(draw: _Draw, number: int) -> Thing:
    """Draws something that stands at the left, the right or the far edge of the table, out of the task's way."""
    k = 10 * number
    along, half = draw("thing_along", k), [draw("thing_half_m", k + axis) for axis in range(3)]
    shape: Literal["box", "cylinder"] = "box" if draw("thing_along", k + 1) < 0.6 else "cylinder"
    edge = int(3 * draw("thing_along", k + 2))
    x, y = ((-0.75 + 0.5 * along, -0.38), (-0.75 + 0.5 * along, 0.38), (-0.1, -0.45 + 0.9 * along))[edge]
    red, green, blue = (draw("thing_colour", k + channel) for channel in range(3))
    return Thing(
        shape=shape,
        half_m=(half[0], half[1], half[2]),
        position=(round(x, DECIMALS), round(y, DECIMALS), half[2]),
        yaw=round(math.pi * draw("thing_along", k + 3), DECIMALS),
        colour=(red, green, blue),
    )


def _hand(draw: _Draw) -> tuple[Thing, ...]:
    """Draws a person's forearm, in a sleeve, with a hand that rests beside the workspace."""
    side = 1.0 if draw("hand", 1) < 0.5 else -1.0
    x, reach, skin = draw("hand_x_m"), draw("hand_reach_m"), draw("skin")
    colour = (skin, round(0.72 * skin, DECIMALS), round(0.58 * skin, DECIMALS))
    sleeve = (draw("thing_colour", 100), draw("thing_colour", 101), draw("thing_colour", 102))
    palm, elbow = (x, _r(side * (reach + 0.05)), 0.02), (x, _r(side * (reach + 0.24)), 0.05)
    return (
        Thing(shape="box", half_m=(0.04, 0.05, 0.015), position=palm, yaw=0.0, colour=colour),
        Thing(shape="capsule", half_m=(0.035, 0.12, 0.035), position=elbow, yaw=0.0, colour=sleeve),
    )


def _shadow_of(thing: Thing, light: Light) -> Shadow:
    """Returns the soft shadow that a thing casts, away from the light."""
    x, y, z = light.towards
    x, y = thing.position[0] - thing.half_m[2] * x / z, thing.position[1] - thing.half_m[2] * y / z
    depth = 0.6 * (1 - light.ambient)
    return Shadow(place=(_r(x), _r(y)), radius_m=_r(max(thing.half_m[0], thing.half_m[1])), depth=_r(depth))


def _r(value: float) -> float:
    return round(float(value), DECIMALS)
