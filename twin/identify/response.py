"""This module finds how late and how sluggishly an arm follows, by the twin's own servos.

latency    every episode's own, as an arm may start each with another one
response   share of the way to a command that the set points make in one control step
stiffness  of the joints' servos, over the twin's
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.episode import Episode
from protos.errors import InputError
from protos.schema import CONTROL_HZ, F64
from twin.identify.motion import Motion, Replay, free_motions
from twin.identify.solve import Residuals, Solution, Unknown, interval, solve
from twin.robots import Robot
from twin.tasks import Task

M_PER_RESIDUAL = 0.001
LATENCIES = np.arange(0.0, 6.1)
"""Latencies in control steps from which the search starts: each episode at its best."""
STARTS = ((0.06, math.log(0.7)), (0.0, 0.0))
"""Time constant and logarithm of the stiffness from which the search may start: a soft arm, the twin's own."""
SLOWEST_S = 0.5
LATENCY = Unknown(start=0.0, step=0.02, low=-1.0, high=8.0)
"""An arm that is told where to be at the end of a step may be ahead of a twin without latency."""
LAG = Unknown(start=0.06, step=0.002, low=0.0, high=SLOWEST_S)
"""Time constant of the set points: it is 0 where the response is 1, and smooth there."""
STIFFNESS = Unknown(start=math.log(0.7), step=0.02, low=math.log(0.05), high=math.log(5.0))


@dataclass(frozen=True, kw_only=True)
class Response:
    """A response is how an arm follows its commands, with 95 % intervals."""

    latency_steps: float
    """Mean over the episodes."""
    latency_interval: tuple[float, float]
    latencies: tuple[float, ...]
    """Every episode's latency."""
    response: float
    response_interval: tuple[float, float]
    stiffness: float
    stiffness_interval: tuple[float, float]
    rms_mm: float
    """Distance that remains between the measured and the replayed paths, per axis."""


def response_of(robot: Robot, task: Task, episodes: Sequence[Episode]) -> Response:
    """Finds the response of the arm that recorded the episodes. Raises InputError where none of them tells it."""
    found = free_motions(robot, episodes)
    if not found:
        raise InputError(
            f"{len(episodes)} episodes: none has a free motion whose commands are known (proprioception 19 to 24)"
        )
    replay = Replay(robot, task, found)

    def residuals(own: F64, common: F64) -> list[F64]:
        paths = replay.paths(own[:, 0], share_of(common[0]), math.exp(common[1]))
        return [_apart(motion, path) for motion, path in zip(found, paths.positions, strict=True)]

    own, common = min((_start(residuals, len(found), each) for each in STARTS), key=lambda each: each[2])[:2]
    return _read(solve(residuals, own, ((LATENCY,), (LAG, STIFFNESS)), at=common))


def share_of(lag_s: float) -> float:
    """Returns the share of the way that a first-order response with this time constant makes in one control step."""
    return 1.0 if lag_s <= 0 else 1 - math.exp(-1 / (CONTROL_HZ * lag_s))


def _start(residuals: Residuals, n: int, common: tuple[float, float]) -> tuple[F64, F64, float]:
    """Returns the latency (n, 1) with which each episode's replay comes closest, the common numbers, and how close."""
    costs = np.array(
        [
            [np.abs(each).sum() for each in residuals(np.full((n, 1), latency), np.array(common))]
            for latency in LATENCIES
        ]
    )
    return LATENCIES[np.argmin(costs, axis=0)][:, None], np.array(common), float(costs.min(axis=0).sum())


def _apart(motion: Motion, path: F64) -> F64:
    return ((path[: len(motion.measured)] - motion.measured) / M_PER_RESIDUAL).ravel()


def _read(solution: Solution) -> Response:
    shares = np.array([share_of(lag) for lag in solution.common_samples[:, 0]])
    return Response(
        latency_steps=float(solution.own.mean()),
        latency_interval=interval(solution.own_samples[:, 0]),
        latencies=tuple(solution.own[:, 0].tolist()),
        response=share_of(solution.common[0]),
        response_interval=interval(shares),
        stiffness=math.exp(solution.common[1]),
        stiffness_interval=interval(np.exp(solution.common_samples[:, 1])),
        rms_mm=solution.rms * M_PER_RESIDUAL * 1000,
    )
