"""This module runs the demo of one checkout through some of its stages and measures each.

    checkout ─► stages before the first one wanted, once ─► kept run ──copy──► stages wanted, measured ─► ended
                                                                      ──copy──► … the next round

The run is a process of the checkout's own code; its stages are followed through the files that it writes.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.cost import Meter
from protos.errors import InputError, TwinRLError
from protos.files import log_tail, read_lines
from protos.status import read_status

NAME = "demo"
LOG = "bench.log"
POLL_S = 0.05
END_TIMEOUT_S = 60.0
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """One stage of one run."""

    cpu_s: float
    """CPU time of all processes; that of the run's own start and end counts in the first and the last stage."""
    wall_s: float
    first_step_s: float | None = None
    """Seconds from the stage's begin until the fleet knew of a twin's first step, where there is a fleet."""
    first_step_cpu_s: float | None = None
    """CPU seconds of all processes until then."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The part of the demo to measure: stages `first` to `last`, counted from 0."""

    first: int
    last: int
    flags: str
    """More flags of `twinrl demo`, the same for all."""


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """The code of one commit, and the folder for its runs."""

    label: str
    code: Path
    runs: Path

    def turn(self, plan: Plan) -> list[StageCost]:
        """Runs the stages of the plan and returns the cost of each."""
        if plan.first:
            self._prepare(plan)
            shutil.rmtree(self.runs / "turn", ignore_errors=True)
            shutil.copytree(self._kept(plan), self.runs / "turn" / NAME, symlinks=True)
        else:
            shutil.rmtree(self.runs / "turn", ignore_errors=True)
        return self._run(self.runs / "turn", plan, first=plan.first, last=plan.last)

    def _kept(self, plan: Plan) -> Path:
        return self.runs / f"before-stage-{plan.first}" / NAME

    def _prepare(self, plan: Plan) -> None:
        """Runs the stages before the first one wanted, unless an earlier turn or benchmark has."""
        kept = self._kept(plan)
        if len(read_lines(kept / "stages.jsonl")) == plan.first:
            return
        partial = kept.parent.with_name("preparing")
        shutil.rmtree(partial, ignore_errors=True)
        self._run(partial, plan, first=0, last=plan.first - 1)
        shutil.rmtree(kept.parent, ignore_errors=True)
        partial.rename(kept.parent)

    def _run(self, runs: Path, plan: Plan, *, first: int, last: int) -> list[StageCost]:
        costs: list[StageCost] = []
        with Meter() as meter, self._demo(runs, plan.flags, resume=first > 0) as process:
            for stage in range(first, last + 1):
                costs.append(self._stage(stage, runs, process, meter, before=sum(one.cpu_s for one in costs)))
            _end(process)
        costs[-1] = replace(costs[-1], cpu_s=meter.cpu_s - sum(one.cpu_s for one in costs[:-1]))
        return costs

    def _stage(
        self, stage: int, runs: Path, process: "subprocess.Popen[bytes]", meter: Meter, *, before: float
    ) -> StageCost:
        """Returns the cost of a stage, by its place, once it is done; `before` are the CPU seconds before it."""
        folder, begun = runs / NAME, time.time()
        stepped: float | None = None
        stepped_cpu_s: float | None = None
        while len(lines := read_lines(folder / "stages.jsonl")) <= stage:
            if stepped is None and (stepped := _first_step(folder, begun)) is not None:
                stepped_cpu_s = meter.sample() - before
            if process.poll() is not None:
                raise TwinRLError(f"{self.label}: the demo ended early; the end of its log:\n{log_tail(runs / LOG)}")
            time.sleep(POLL_S)
        return StageCost(
            cpu_s=meter.sample() - before,
            wall_s=lines[stage]["wall_s"],
            first_step_s=None if stepped is None else stepped - begun,
            first_step_cpu_s=stepped_cpu_s,
        )

    @contextmanager
    def _demo(self, runs: Path, flags: str, *, resume: bool) -> Iterator["subprocess.Popen[bytes]"]:
        """Starts the demo; it has ended after the block, however that ends."""
        runs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "twinrl.cli", "demo", "--runs", str(runs), "--name", NAME]
        command += ["--resume"] if resume else shlex.split(flags)
        environment = os.environ | {"PYTHONPATH": str(self.code), "PYTHONDONTWRITEBYTECODE": ""}  # as `make demo`
        with (runs / LOG).open("ab") as log:
            process = subprocess.Popen(command, cwd=self.code, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the run as Ctrl-C does; the CPU time of ending counts."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _first_step(folder: Path, begun: float) -> float | None:
    """Returns when the fleet of the stage under way first said that a twin had stepped [unix s]."""
    status = read_status(folder / "logs" / "fleet.status.json")
    if status is None or status.t < begun or not status.rates.get("steps"):
        return None
    return status.t


def checkouts(commits: Sequence[str], folder: Path) -> list[Checkout]:
    """Returns a worktree of each commit and a folder for its runs, both kept for the next time; "." is this checkout.

    A new worktree's kernels are compiled in its first round.
    """
    found: list[Checkout] = []
    for commit in commits:
        if commit == ".":
            found.append(Checkout(label=commit, code=CHECKOUT, runs=folder.absolute() / "working-tree"))
            continue
        name = _git("rev-parse", "--short", f"{commit}^{{commit}}")
        code = folder.absolute() / "code" / name
        if not code.exists():
            _git("worktree", "prune")
            _git("worktree", "add", "--detach", str(code), name)
        found.append(Checkout(label=name, code=code, runs=folder.absolute() / name))
    return found


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f'git {" ".join(arguments)}: {done.stderr.strip()}; name commits of {CHECKOUT}, or "."')
    return done.stdout.strip()
