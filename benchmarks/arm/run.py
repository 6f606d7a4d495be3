"""Every stop of the arm, measured at the controller: a fault strikes while the tool moves fast.

program moves the arm ──► fault ──► seconds until the tool stands, farthest way ──► what is said, how it goes on
"""

import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from actors.lab import LabClient
from benchmarks.arm.stage import Program, Stage, Stop, wait_for
from benchmarks.measure import hardware, table
from protos.errors import InputError

FAST_M_S = 0.12
"""The fault strikes when the tool is at least so fast."""
WATCHED_S = 1.5
COLUMNS = ("fault", "still after [s]", "farthest [mm]", "the operator reads", "it goes on")
Act = Callable[[Stage, Program], None]


@dataclass(frozen=True, kw_only=True)
class ArmBench:
    """Strike the arm's program, its driver, its network and its services while the arm moves; tables as markdown."""

    rounds: int = 1
    """Each fault strikes so often; the worst stop is told."""
    domain: str = "stiff"
    """Domain of the stand-in; joints of "standin" come to rest 0.1 s later than a robot's."""
    moment: Literal["episode", "reset"] = "episode"
    """A fault strikes during the servo targets of an episode, or during the straight line to a start."""
    only: tuple[str, ...] = ()
    """Names of faults; all by default."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"rounds={self.rounds}: at least 1")
        if unknown := set(self.only) - set(FAULTS):
            raise InputError(f"only={sorted(unknown)}: choose among {', '.join(FAULTS)}")


@dataclass(frozen=True)
class Fault:
    """One fault, and what sets it right afterwards."""

    strike: Act
    mend: Act
    waits_s: float = 3.0
    """Time after which it is set right, unless the program has ended by then."""


def _signal_main(number: int) -> Act:
    return lambda stage, program: program.process.send_signal(number)


def _signal_driver(number: int) -> Act:
    return lambda stage, program: os.kill(program.driver, number)


def _nothing(stage: Stage, program: Program) -> None:
    """Sets nothing right: the fault is over, or for good."""


def _protective_stop(stage: Stage, program: Program) -> None:
    LabClient(stage.inner).protective_stop()


def _unlock(stage: Stage, program: Program) -> None:
    LabClient(stage.inner).pendant(safety="NORMAL")


FAULTS = {
    "Ctrl-C": Fault(_signal_main(signal.SIGINT), _nothing),
    "terminal lost (SIGHUP)": Fault(_signal_main(signal.SIGHUP), _nothing),
    "program killed": Fault(_signal_main(signal.SIGKILL), _nothing),
    "program stopped": Fault(_signal_main(signal.SIGSTOP), _signal_main(signal.SIGCONT)),
    "driver killed": Fault(_signal_driver(signal.SIGKILL), _nothing),
    "driver stopped": Fault(_signal_driver(signal.SIGSTOP), _signal_driver(signal.SIGCONT)),
    "cameras silent": Fault(
        lambda stage, program: stage.lab.send_signal(signal.SIGSTOP),
        lambda stage, program: stage.lab.send_signal(signal.SIGCONT),
        waits_s=10.0,
    ),
    "replay killed": Fault(lambda stage, program: os.kill(stage.replay.pid, signal.SIGKILL), _nothing),
    "protective stop": Fault(_protective_stop, _unlock),
    "network swallows everything": Fault(
        lambda stage, program: stage.network.send_signal(signal.SIGSTOP),
        lambda stage, program: stage.network.send_signal(signal.SIGCONT),
        waits_s=20.0,
    ),
    "network resets": Fault(lambda stage, program: stage.network.kill(), lambda stage, program: stage.mend_network()),
}


def run(settings: ArmBench) -> str:
    """Returns the table. Each fault has a stage of its own."""
    rows = []
    for name in settings.only or FAULTS:
        struck = [_strike(FAULTS[name], settings) for _ in range(settings.rounds)]
        worst = max((stop for stop, _, _ in struck), key=lambda stop: stop.after_s)
        furthest = max(stop.furthest_m for stop, _, _ in struck)
        rows.append([name, f"{worst.after_s:.2f}", f"{furthest * 1000:.0f}", *struck[0][1:]])
    return f"{table(COLUMNS, rows)}\n\n{hardware()}\n"


def _strike(fault: Fault, settings: ArmBench) -> tuple[Stop, str, str]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Stage(Path(folder), settings.domain) as stage,
        Program(stage.settings(), stage.folder) as program,
    ):
        wait_for(
            lambda: program.process.poll() is not None or _is_fast(stage, program, settings.moment),
            "it moves fast",
            120.0,
        )
        began, struck_s = time.monotonic(), stage.observer.now_s
        fault.strike(stage, program)
        time.sleep(WATCHED_S)
        stop = stage.observer.stop_since(struck_s, struck_s + WATCHED_S)
        if fault.mend is not _nothing:
            wait_for(lambda: program.process.poll() is not None or time.monotonic() > began + fault.waits_s, "", 60.0)
            if program.process.poll() is None:
                fault.mend(stage, program)
        return stop, *_end(stage, program)


def _is_fast(stage: Stage, program: Program, moment: str) -> bool:
    is_moment = program.has_begun == (moment == "episode")
    return program.driver > 0 and stage.observer.speed_m_s > FAST_M_S and is_moment


def _end(stage: Stage, program: Program) -> tuple[str, str]:
    """Returns what was said in the end, and how it goes on."""
    began = time.monotonic()
    while program.process.poll() is None and time.monotonic() < began + 12.0:
        if stage.observer.speed_m_s > FAST_M_S:
            return program.said(), f"after the answer, {time.monotonic() - began:.1f} s later"
        time.sleep(0.02)
    if program.process.poll() is None:
        return program.said(), "it waits"
    return program.said(), f"restart (exit status {program.process.returncode})"
