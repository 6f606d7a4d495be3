"""This benchmark measures what one control step of the arm costs in CPU time, in every process that has a part in it.

    program (observe, images, act) ── driver, or the same inside the program ── stand-in with physics

No policy acts and nothing is recorded. In real time the driver's share of a core says whether it waits or spins.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from actors.lab import LAB_PORT
from actors.real import ArmSettings, PendantSettings, RealSettings, SimulatedLab
from actors.real.arm import UrArm
from actors.real.robot import RealEnvironment, Robot
from actors.simulated_ur import StandinSettings
from benchmarks.arm.stage import START_TIMEOUT_S, free_host, listens, wait_for
from benchmarks.measure import cpu_seconds, descendants, hardware, spread, table, take_turns
from protos.errors import InputError
from protos.process import Closing
from protos.schema import F32
from protos.settings import save_settings
from twin import tasks
from twin.scene import Scene, synthetic_scene

WARM_STEPS = 20
CIRCLE_STEPS, TURN_ROUND_STEPS = 20, 25
"""The tool goes round a circle in so many steps; the fingers turn round as often as that."""
BLEND = 0.3
"""The demo drives its stand-in so."""
PARTS = ("stand-in", "driver", "program")


@dataclass(frozen=True, kw_only=True)
class StepBench:
    """CPU time of one control step by process, with the driver in a process of its own and without; a table."""

    steps: int = 200
    rounds: int = 3
    stream_hz: float = 50.0
    """Servo targets per second of robot time."""
    fast: bool = True
    """False: in real time."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rounds < 1:
            raise InputError(f"steps={self.steps}, rounds={self.rounds}: at least 1")


@dataclass(frozen=True)
class Cost:
    """The cost of one step [ms]."""

    cpu_ms: dict[str, float]
    """CPU time by process."""
    wall_ms: float


def run(settings: StepBench) -> str:
    """Returns the table."""
    with tempfile.TemporaryDirectory() as folder, Standin(Path(folder), settings) as standin:
        systems = {
            "driver in its own process": lambda: _measure(standin, settings.steps, nullcontext()),
            "driver inside the program": lambda: _measure(standin, settings.steps, _inside()),
        }
        rows = [_row(name, costs) for name, costs in take_turns(systems, settings.rounds).items()]
    columns = ("ms per control step", *(f"{part}, CPU" for part in PARTS), "all, CPU", "wall")
    return f"{table(columns, rows)}\n\n{hardware()}\n"


class Standin(Closing):
    """`python -m actors.simulated_ur` in the synthetic scene, in the lab that the demo has."""

    def __init__(self, folder: Path, settings: StepBench) -> None:
        self._stream_hz = settings.stream_hz
        self.host, scene = free_host(), folder / "scene"
        synthetic_scene().save(scene)
        self._pendant = PendantSettings.of(Scene.load(scene).robot)
        path = save_settings(StandinSettings(scene=scene, host=self.host, fast=settings.fast), folder / "standin.json")
        command = [sys.executable, "-m", "actors.simulated_ur", "--settings", str(path)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.pid = self._process.pid
        wait_for(lambda: listens(self.host, LAB_PORT), "the stand-in listens", START_TIMEOUT_S)

    def settings(self) -> RealSettings:
        """Returns settings that drive this arm."""
        arm = ArmSettings(host=self.host, blend=BLEND, stream_hz=self._stream_hz, pendant=self._pendant)
        return RealSettings(arm=arm, armed=True, lab=SimulatedLab(timeout_s=30.0), operator="none")

    def close(self) -> None:
        self._process.kill()
        self._process.wait(30)


@contextmanager
def _inside() -> Iterator[None]:
    """Drives the arm in the program's own process."""
    with mock.patch("actors.real.robot.ArmClient", UrArm):
        yield


def _measure(standin: Standin, steps: int, arrangement: AbstractContextManager[None]) -> Cost:
    """Moves the arm as an episode does and returns what a step has cost."""
    with arrangement, Robot(standin.settings()) as robot:
        environment = robot.environment
        environment.reset(0, tasks.get(standin.settings().task).space.sample(np.random.default_rng(0), region="A"))
        _move(environment, WARM_STEPS)
        processes = {"stand-in": [standin.pid], "driver": _drivers(standin), "program": [os.getpid()]}
        used = {part: cpu_seconds(pids) for part, pids in processes.items()}
        began = time.perf_counter()
        _move(environment, steps)
        wall_s = time.perf_counter() - began
        cpu = {part: (cpu_seconds(pids) - used[part]) / steps * 1e3 for part, pids in processes.items()}
    return Cost(cpu, wall_s / steps * 1e3)


def _drivers(standin: Standin) -> list[int]:
    return [pid for pid in descendants(os.getpid())[1:] if pid != standin.pid]


def _move(environment: RealEnvironment, steps: int) -> None:
    """Observes and acts, as an episode does."""
    for step in range(steps):
        environment.observe()
        environment.step(_action(step))


def _action(step: int) -> F32:
    """Returns the action (1, 7): round a circle of 10 cm, with fingers that turn round now and then."""
    angle = 2 * np.pi * step / CIRCLE_STEPS
    grip = 1.0 if step // TURN_ROUND_STEPS % 2 else -1.0
    return np.array([[0.5 * np.cos(angle), 0.5 * np.sin(angle), 0, 0, 0, 0, grip]], np.float32)


def _row(name: str, costs: list[Cost]) -> list[str]:
    parts = [spread([cost.cpu_ms[part] for cost in costs], 2) for part in PARTS]
    total = spread([sum(cost.cpu_ms.values()) for cost in costs], 2)
    return [name, *parts, total, spread([cost.wall_ms for cost in costs], 1)]
