"""This module identifies a twin: what the arm's recorded episodes say of the arm's world, and the twin made so.

episodes ─┬─ free motions ─► response ─┐
          └─ carries ─────► load ──────┴─► Identified: table, domain
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protos.episode import Episode
from protos.schema import F64
from twin.identify.load import weighed
from twin.identify.quantities import Quantity
from twin.identify.response import Response, response_of
from twin.identify.solve import SAMPLES, interval
from twin.randomize import LATENCY_PARTS, Domain, Span
from twin.scene import Scene
from twin.tasks import Task

LEAST_WEIGHED = 5
"""Fewer carries than this give no interval of the mass."""


@dataclass(frozen=True, kw_only=True)
class Identified:
    """The twin as a number of episodes show it."""

    episodes: int
    quantities: tuple[Quantity, ...]
    domain: Domain
    """The twin's domain with what was found in the middle of its spans."""


def identify(scene: Scene, task: Task, domain: Domain, episodes: Sequence[Episode]) -> Identified:
    """Identifies the twin of a scene, a task and a domain from the arm's episodes.

    Raises InputError where none of them tells how the arm follows its commands.
    """
    response = response_of(scene.robot, task, episodes)
    mass = _mass(domain, weighed(scene.robot, task, episodes, response))
    quantities = [*_of_response(domain, response), mass]
    quantities.append(
        Quantity(name="friction", unit="–", before=domain.middle.friction, note="it shows in objects that slip only")
    )
    return Identified(episodes=len(episodes), quantities=tuple(quantities), domain=_moved(domain, response, mass.found))


def _of_response(domain: Domain, response: Response) -> list[Quantity]:
    middle = domain.middle
    spread = f"episodes from {min(response.latencies):.2f} to {max(response.latencies):.2f}"
    return [
        _quantity(
            ("latency", "steps", float(np.mean(domain.latency_steps))),
            response.latency_steps,
            response.latency_interval,
            f"{spread}; {response.rms_mm:.2g} mm of the paths remain",
        ),
        _quantity(("response", "per 100 ms", middle.response), response.response, response.response_interval),
        _quantity(("servo stiffness", "–", middle.servo_stiffness), response.stiffness, response.stiffness_interval),
    ]


def _mass(domain: Domain, masses: F64) -> Quantity:
    of_twin = ("object mass", "kg", domain.middle.object_mass_kg)
    note = "by the force at the tool while carried"
    if len(masses) < LEAST_WEIGHED:
        return _quantity(of_twin, None, None, f"{len(masses)} carries with a force")
    drawn = np.random.default_rng(0).choice(masses, (SAMPLES, len(masses))).mean(1)
    low, high = interval(drawn)
    return _quantity(of_twin, float(masses.mean()) if low > 0 else None, (low, high), note)


def _quantity(
    of_twin: tuple[str, str, float], found: float | None, ends: tuple[float, float] | None, note: str = ""
) -> Quantity:
    name, unit, before = of_twin
    low, high = ends if ends is not None else (None, None)
    return Quantity(name=name, unit=unit, before=before, found=found, low=low, high=high, note=note)


def _moved(domain: Domain, response: Response, mass_kg: float | None) -> Domain:
    """Returns the domain around what was found, its spans as wide as they were; latencies spread as the episodes'."""
    middle = domain.middle
    moved: dict[str, Any] = {
        "latency_steps": latencies(response),
        "response": _around(domain.response, middle.response, response.response, 0.05, 1.0),
        "servo_stiffness": _around(domain.servo_stiffness, middle.servo_stiffness, response.stiffness, 0.05, 5.0),
    }
    if mass_kg is not None:
        moved["object_mass_kg"] = _around(domain.object_mass_kg, middle.object_mass_kg, mass_kg, 0.001, 5.0)
    return replace(domain, **moved)


def latencies(response: Response) -> tuple[float, ...]:
    """Returns latencies in parts of a control step: from the episodes' 10th to their 90th percentile, one part more on
    either side.
    """
    low, high = np.percentile(response.latencies, (10, 90)) * LATENCY_PARTS
    parts = range(max(round(low) - 1, 0), round(high) + 2)
    return tuple(part / LATENCY_PARTS for part in parts)


def _around(span: Span, before: float, found: float, least: float, most: float) -> Span:
    """Returns a span moved by the ratio of what was found to its middle."""
    low, high = (float(np.clip(end * found / before, least, most)) for end in span)
    return low, high
