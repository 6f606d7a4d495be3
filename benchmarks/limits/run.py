"""This benchmark asks the driver of the arm for 100,000 motions that no operator wants, and measures what it streams.

twinrl bench limits                        100,000 actions, about a quarter of an hour on one core
twinrl bench limits --actions 3000           a look
twinrl bench limits --case over-rtde         3000 actions through ur_rtde, over a wire that delays, at the controller
twinrl bench limits --case collisions        1000 targets that would collide (`collisions`)

    adversary ─► UrArm.servo ─► limits ─► stream ─► plant, which stalls, follows late, and keeps every target
    adversary ─► ArmClient ─► driver's process ─► ur_rtde ─► proxy, which delays ─► simulated controller, spied on
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from unittest import mock

import numpy as np

from actors.real.arm import ArmSettings, UrArm
from actors.real.driver.client import Arm, ArmClient
from actors.real.link import Link
from actors.real.safety import CRAWL_M_S, Limits, LimitSettings
from actors.real.stream import JOINT_SPEED_SHARE
from benchmarks.limits import collisions
from benchmarks.limits.extremes import Extremes, Target
from benchmarks.limits.plant import Plant
from benchmarks.limits.postures import any_posture, joints_at
from benchmarks.limits.wire import SpiedRobot
from benchmarks.measure import hardware, table
from protos.errors import ArmStopped, InputError
from protos.schema import F64
from twin.rotations import about_z, matrix_from_vector, vector_from_matrix
from twin.tasks import WORK_BOX

Case = Literal["motions", "over-rtde", "collisions"]
ACTIONS: Mapping[Case, int] = {"motions": 100_000, "over-rtde": 3_000, "collisions": 1_000}
ANY_SHARE = 0.3
"""Share of the episodes that start in any posture whatever, the others with the tool pointing down, or nearly."""
EPISODE = 40
"""Actions from one start."""
ARM_EPISODES = 20
"""Starts of one connection."""
PERIOD_S = 0.1
JOINT_SHARE = JOINT_SPEED_SHARE + 0.002
"""Near a singularity the joints of targets that are known to 1e-10 m are known to some 1e-5 rad."""
SLACK = 1 + 1e-6
"""Rounding of what is measured."""


@dataclass(frozen=True, kw_only=True)
class LimitsBench:
    """Adversarial actions on the arm's driver: speeds, accelerations and joint speeds of what is streamed."""

    case: Case = "motions"
    """motions: any actions, on a plant. over-rtde: real ur_rtde and the simulated controller in its place; targets as
    they arrive there. collisions: targets in whose way the arm, the table or an obstacle is."""
    actions: int = 0
    """0 is 100,000, 3,000 over RTDE, 1,000 of collisions."""
    stream_hz: float = 50.0
    seed: int = 0

    def __post_init__(self) -> None:
        if 0 != self.actions < (least := 1 if self.case == "collisions" else EPISODE):
            raise InputError(f"actions={self.actions}: at least {least}")

    @property
    def count(self) -> int:
        """The number of actions."""
        return self.actions or ACTIONS[self.case]


@dataclass
class Outcome:
    """The outcome of all episodes."""

    extremes: Extremes
    actions: int = 0
    refused: int = 0
    held: int = 0
    protective_stops: int = 0
    clipped: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0
    delayed: bool = False
    """True for targets that a wire has delayed."""

    def add(self, streams: list[list[Target]], limits: Limits, slice_s: float) -> None:
        """Looks at what one connection streamed, and at what its limits counted."""
        for stream in streams:
            self.extremes.add(stream, limits.low, limits.high, slice_s, delayed=self.delayed)
        self.clipped.update(limits.clipped)

    @property
    def hard_stops(self) -> int:
        """Number of stops harder than the bounds of acceleration."""
        return self.clipped["hard stop"]


def run(settings: LimitsBench) -> str:
    """Measures, and returns a table; AssertionError when a bound is broken."""
    if settings.case == "collisions":
        return collisions.run(settings.count, settings.seed)
    outcome = measure_over_rtde(settings) if settings.case == "over-rtde" else measure(settings)
    check(outcome)
    return f"{hardware()}\n\n{report(outcome)}"


def measure(settings: LimitsBench) -> Outcome:
    """Runs all episodes."""
    outcome, began = Outcome(Extremes()), time.monotonic()
    rng = np.random.default_rng(settings.seed)
    while outcome.actions < settings.count:
        plant, limits = Plant(rng), Limits(WORK_BOX, LimitSettings())
        arm_settings = ArmSettings(blend=rng.uniform(0.05, 1.0), stream_hz=settings.stream_hz, hold_after_s=1.0)
        with (
            mock.patch.object(Link, "connect", lambda *_, plant=plant: Link(plant, plant, 30.0)),
            UrArm(arm_settings, limits, armed=True) as arm,
        ):
            for _ in range(ARM_EPISODES):
                _episode(arm, plant, rng, outcome)
        outcome.add(plant.streams, limits, 1 / settings.stream_hz)
        outcome.protective_stops += plant.stops
    outcome.took_s = time.monotonic() - began
    return outcome


def measure_over_rtde(settings: LimitsBench) -> Outcome:
    """Runs all episodes through the driver's process, ur_rtde, and a wire that delays."""
    outcome, began = Outcome(Extremes(), delayed=True), time.monotonic()
    rng = np.random.default_rng(settings.seed)
    while outcome.actions < settings.count:
        limits = Limits(WORK_BOX, LimitSettings())
        with SpiedRobot(rng) as robot:
            arm_settings = ArmSettings(
                host=robot.host, blend=rng.uniform(0.05, 1.0), stream_hz=settings.stream_hz, hold_after_s=1.0
            )
            with ArmClient(arm_settings, limits, armed=True) as arm:
                for _ in range(ARM_EPISODES):
                    _episode(arm, robot, rng, outcome)
                    if outcome.actions >= settings.count:
                        break
        outcome.add(robot.streams, limits, 1 / settings.stream_hz)
        outcome.protective_stops += robot.stops
    outcome.took_s = time.monotonic() - began
    return outcome


def _episode(arm: Arm, plant: Plant | SpiedRobot, rng: np.random.Generator, outcome: Outcome) -> None:
    """Makes the actions from one start."""
    arm.try_to_hold("a start")
    plant.unlock()
    plant.place(_start(rng), delay_s=rng.choice([0.0, 0.1, 0.2]), gain=rng.uniform(0.7, 1.0))
    plant.late_share = float(rng.choice([0.0, 0.05, 0.3]))
    habit = rng.choice(["anything", "corner", "reversal", "turning", "lean", "normal"])
    way, turn = rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3)
    for step in range(EPISODE):
        plant.stall(rng.uniform(0, 0.09) * rng.integers(2))
        outcome.actions += 1
        try:
            if arm.held:
                arm.release()
            arm.servo(_target(str(habit), arm.anchor(), step, way, turn, rng), PERIOD_S)
        except InputError:
            outcome.refused += 1
        except ArmStopped:
            outcome.held += 1
            if arm.limits.outside(plant.tool()) > arm.limits.settings.ceiling_m:
                return
            plant.unlock()


def _start(rng: np.random.Generator) -> F64:
    """Returns joints anywhere: the tool inside the box or around it, pointing down or wherever it likes."""
    low, high = (
        np.array([WORK_BOX.x[0], WORK_BOX.y[0], WORK_BOX.z[0]]),
        np.array([WORK_BOX.x[1], WORK_BOX.y[1], WORK_BOX.z[1]]),
    )
    around = rng.choice([0.0, 0.09, 0.12], p=[0.7, 0.28, 0.02])  # the last is refused, after some seconds
    if rng.random() < ANY_SHARE:
        return any_posture(low - around, high + around, rng)
    position = rng.uniform(low - around, high + around)
    joints = joints_at(position, rng.uniform(-2, 2))
    return joints + rng.normal(0, 0.1, 6) * (rng.random() < 0.3)


def _target(habit: str, anchor: F64, step: int, way: F64, turn: F64, rng: np.random.Generator) -> F64:
    """Returns the pose that a habit asks for next."""
    if habit == "anything":
        way, turn = rng.uniform(-0.19, 0.19, 3), rng.uniform(-np.pi, np.pi, 3)
        if rng.random() < 0.02:
            way = way * rng.choice([3.0, 1000.0, np.nan])
    elif habit == "corner":
        way, turn = 0.15 * np.sign(way), 0 * turn
    elif habit == "reversal":
        way, turn = 0.06 * way * (-1) ** step, 0.3 * turn * (-1) ** step
    elif habit == "turning":
        return np.concatenate([anchor[:3] + 0.01 * way, _turned(about_z(2 * np.pi * turn[2]), anchor)])
    elif habit == "lean":
        way, turn = 0.02 * way, 0.15 * turn
    else:
        way, turn = 0.03 * rng.choice([-1.0, 0.0, 1.0], 3), np.array([0, 0, 0.1 * rng.choice([-1.0, 0.0, 1.0])])
    return np.concatenate([anchor[:3] + way, _turned(matrix_from_vector(turn), anchor)])


def _turned(by: F64, anchor: F64) -> F64:
    return vector_from_matrix(by @ matrix_from_vector(anchor[3:]))


def check(outcome: Outcome) -> None:
    """Raises AssertionError when a bound is broken."""
    found, limits = outcome.extremes, LimitSettings()
    for name in ("speed_m_s", "speed_rad_s", "acceleration_m_s2", "acceleration_rad_s2"):
        assert getattr(found, name) <= SLACK * getattr(limits, name), f"{name}: {getattr(found, name):.3f}"
    assert found.braking_m_s2 <= SLACK * limits.acceleration_m_s2, f"braking: {found.braking_m_s2:.3f} m/s2"
    assert found.braking_rad_s2 <= SLACK * limits.acceleration_rad_s2, f"braking: {found.braking_rad_s2:.3f} rad/s2"
    assert found.joint_share <= JOINT_SHARE, f"joint speed: {found.joint_share:.3f} of the data sheet's"
    assert outcome.hard_stops == 0, f"{outcome.hard_stops} hard stops"
    assert found.crawl_m_s <= SLACK * CRAWL_M_S, f"{found.crawl_m_s:.3f} m/s outside the work box"
    assert found.outside_m <= 1e-6, f"{found.outside_m * 1000:.2f} mm out of the work box"
    assert outcome.protective_stops == 0, f"{outcome.protective_stops} protective stops"


def report(outcome: Outcome) -> str:
    """Returns a markdown table of what was found, beside the bounds."""
    found, limits = outcome.extremes, LimitSettings()
    accelerations = [
        ("acceleration [m/s²]", f"{found.acceleration_m_s2:.1f}", limits.acceleration_m_s2),
        ("angular acceleration [rad/s²]", f"{found.acceleration_rad_s2:.1f}", limits.acceleration_rad_s2),
        ("braking [m/s²]", f"{found.braking_m_s2:.1f}", limits.acceleration_m_s2),
        ("angular braking [rad/s²]", f"{found.braking_rad_s2:.1f}", limits.acceleration_rad_s2),
    ]
    rows = [
        ("speed of a pair [m/s]", f"{found.speed_m_s:.3f}", limits.speed_m_s),
        ("angular speed of a pair [rad/s]", f"{found.speed_rad_s:.3f}", limits.speed_rad_s),
        *([] if outcome.delayed else accelerations),
        ("joint speed, share of the data sheet's", f"{found.joint_share:.2f}", JOINT_SPEED_SHARE),
        ("harder stops, for a joint's sake", outcome.hard_stops, 0),
        ("speed outside the work box [m/s]", f"{found.crawl_m_s:.3f}", CRAWL_M_S),
        ("out of the work box [mm]", f"{max(found.outside_m, 0.0) * 1000:.2f}", 0),
        ("protective stops", outcome.protective_stops, 0),
        ("actions: refused, held", f"{outcome.actions}: {outcome.refused}, {outcome.held}", ""),
        ("pairs of targets", found.pairs, ""),
        ("clipped", ", ".join(f"{count} {name}" for name, count in sorted(outcome.clipped.items())), ""),
        ("actions per second", f"{outcome.actions / outcome.took_s:.0f}", ""),
    ]
    return table(["adversarial actions", "largest", "bound"], rows)
