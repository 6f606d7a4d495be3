"""This module identifies a twin: what the arm's recorded episodes say of the arm's world, and the twin made so.

episodes ─┬─ free motions ──────► response ────────────┐
├─ carries ───────────► load ────────────────┼─► Identified: table, domain, calibration
└─ frames at rest ────► camera ─► colours ───┘
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from protos.episode import Episode
from protos.schema import F64
from twin.camera import invert
from twin.identify.camera import UNKNOWNS, calibration_of, find_calibration
from twin.identify.colours import light, noise
from twin.identify.load import weighed
from twin.identify.quantities import Quantity
from twin.identify.response import Response, response_of
from twin.identify.solve import SAMPLES, Solution, interval
from twin.identify.views import Views, base_of
from twin.labs import Calibration
from twin.randomize import LATENCY_PARTS, Domain, Span
from twin.scene import Scene, SideCamera
from twin.tasks import Task

LEAST_EPISODES = 5
"""A mean over fewer episodes than this has no interval, and is not taken."""
VAGUE = 0.85
"""A number whose interval is wider than this share of the one known beforehand is not observable."""
Row = tuple[str, str, float, str]
"""Name, unit, value in the middle of the twin and a note."""


@dataclass(frozen=True, kw_only=True)
class Identified:
    """The twin as a number of episodes show it."""

    episodes: int
    quantities: tuple[Quantity, ...]
    domain: Domain
    """The twin's domain with what was found in the middle of its spans."""
    calibration: Calibration = field(default_factory=Calibration)
    """Errors of the side camera's and of the arm's place in the scene."""

    def scene(self, scene: Scene) -> Scene:
        """Returns the scene as the arm sees it: its base where it stands, the camera where that looks from."""
        arm_from_scene = invert(base_of(self.calibration))
        side, turn = self.calibration.side(scene.side), arm_from_scene[:3, :3]
        return replace(
            scene,
            static=scene.static.transformed(arm_from_scene),
            side=SideCamera(
                eye=_triple(turn @ side.eye + arm_from_scene[:3, 3]),
                along=_triple(turn @ side.along),
                fovy_deg=side.fovy_deg,
            ),
        )


def identify(scene: Scene, task: Task, domain: Domain, episodes: Sequence[Episode]) -> Identified:
    """Identifies the twin of a scene, a task and a domain from the arm's episodes.

    Raises InputError where none of them tells how the arm follows its commands.
    """
    middle = domain.middle
    response = response_of(scene.robot, task, episodes)
    mass = _mean(
        ("object mass", "kg", middle.object_mass_kg, "by the force at the tool while carried"),
        weighed(scene.robot, task, episodes, response),
    )
    views = Views(scene, task, domain, episodes)
    calibration, seen, moved = Calibration(), _unseen(), domain
    if len(views.images) >= LEAST_EPISODES:
        placed = find_calibration(views)
        calibration = calibration_of(placed.common)
        of_light = _light(domain, light(views, calibration), noise(episodes))
        seen, moved = [*_of_camera(placed), *of_light], _lit(domain, of_light)
    unknown = Quantity(name="friction", unit="–", before=middle.friction, note="it shows in objects that slip only")
    return Identified(
        episodes=len(episodes),
        quantities=(*_of_response(domain, response), mass, unknown, *seen),
        domain=_moved(moved, response, mass.found),
        calibration=calibration,
    )


def _of_response(domain: Domain, response: Response) -> list[Quantity]:
    middle = domain.middle
    latency, spread = float(np.mean(domain.latency_steps)), (min(response.latencies), max(response.latencies))
    note = f"episodes from {spread[0]:.2f} to {spread[1]:.2f}; {response.rms_mm:.2g} mm of the paths remain"
    return [
        _quantity(("latency", "steps", latency, note), response.latency_steps, response.latency_interval),
        _quantity(("response", "per 100 ms", middle.response, ""), response.response, response.response_interval),
        _quantity(
            ("servo stiffness", "–", middle.servo_stiffness, ""), response.stiffness, response.stiffness_interval
        ),
    ]


def _mean(of_twin: Row, values: F64) -> Quantity:
    """Returns the mean over episodes, where there are enough, with its interval."""
    if len(values) < LEAST_EPISODES:
        return _quantity((*of_twin[:3], f"{len(values)} episodes show it"), None, None)
    drawn = np.random.default_rng(0).choice(values, (SAMPLES, len(values))).mean(1)
    return _quantity(of_twin, float(values.mean()), interval(drawn))


def _quantity(of_twin: Row, found: float | None, ends: tuple[float, float] | None) -> Quantity:
    name, unit, before, note = of_twin
    low, high = ends if ends is not None else (None, None)
    return Quantity(name=name, unit=unit, before=before, found=found, low=low, high=high, note=note)


def _unseen() -> list[Quantity]:
    return [Quantity(name="camera, colours", unit="", before=0.0, note="too few episodes begin at rest")]


def _of_camera(placed: Solution) -> list[Quantity]:
    found = []
    for number, (name, unknown) in enumerate(UNKNOWNS.items()):
        thing, axis, unit = name.split("_")
        scale, shown = {"m": (1000.0, "mm"), "rad": (1000.0, "mrad"), "deg": (1.0, "deg")}[unit]
        samples = placed.common_samples[:, number] * scale
        is_seen = samples.std() < VAGUE * unknown.deviation * scale
        row = (f"{'camera' if thing == 'side' else 'base of the arm'} {axis}", shown, 0.0, "")
        found.append(_quantity(row, float(placed.common[number]) * scale if is_seen else None, interval(samples)))
    return found


def _light(domain: Domain, of_episodes: F64, noises: F64) -> list[Quantity]:
    spans = (domain.exposure_stops, domain.white_balance, domain.sensor_noise)
    exposure, balance, sensor = (sum(span) / 2 for span in spans)
    return [
        _mean(("exposure", "stops", exposure, "shadows and lamps are in it"), of_episodes[:, 0]),
        _mean(("white balance", "–", balance, "red more, blue less"), of_episodes[:, 1]),
        _mean(("sensor noise", "–", sensor, "of full scale"), noises),
        Quantity(name="light from", unit="–", before=0.0, note="too few pixels of the arm show its shading"),
    ]


def _lit(domain: Domain, of_light: Sequence[Quantity]) -> Domain:
    """Returns the domain with exposure and white balance around what was found, and the sensor's noise."""
    exposure, balance, sensor, _ = of_light
    assert exposure.found is not None and balance.found is not None
    lit = replace(
        domain,
        exposure_stops=_shifted(domain.exposure_stops, exposure.found, 2.0),
        white_balance=_shifted(domain.white_balance, balance.found, 0.5),
    )
    return lit if sensor.found is None else replace(lit, sensor_noise=(min(sensor.found, 0.2),) * 2)


def _moved(domain: Domain, response: Response, mass_kg: float | None) -> Domain:
    """Returns the domain around what was found, its spans as wide as they were; latencies spread as the episodes'."""
    middle = domain.middle
    stiffness = _scaled(domain.servo_stiffness, response.stiffness / middle.servo_stiffness, 0.05, 5.0)
    moved: dict[str, Any] = {
        "latency_steps": latencies(response),
        "response": _scaled(domain.response, response.response / middle.response, 0.05, 1.0),
        "servo_stiffness": stiffness,
    }
    if mass_kg is not None:
        moved["object_mass_kg"] = _scaled(domain.object_mass_kg, mass_kg / middle.object_mass_kg, 0.001, 5.0)
    return replace(domain, **moved)


def latencies(response: Response) -> tuple[float, ...]:
    """Returns latencies in parts of a control step: from the episodes' 10th to their 90th percentile, one part more on
    either side.
    """
    low, high = np.percentile(response.latencies, (10, 90)) * LATENCY_PARTS
    parts = range(max(round(low) - 1, 0), max(round(high), 0) + 2)
    return tuple(part / LATENCY_PARTS for part in parts)


def _scaled(span: Span, factor: float, least: float, most: float) -> Span:
    low, high = (float(np.clip(end * factor, least, most)) for end in span)
    return low, high


def _shifted(span: Span, middle: float, most: float) -> Span:
    low, high = (float(np.clip(end + middle - sum(span) / 2, -most, most)) for end in span)
    return low, high


def _triple(numbers: F64) -> tuple[float, float, float]:
    x, y, z = (float(each) for each in numbers)
    return x, y, z
