"""This module says what each stage of the demo costs: CPU time of all its processes, Ray's included, and wall time.

    twinrl bench demo                                        the whole demo of this commit
    twinrl bench demo --commits 9ac492d HEAD --rounds 3      two commits, turn by turn
    twinrl bench demo --stages "twin RL" --commits 9ac492d . one stage; "." is the checkout as it lies here
    twinrl bench demo --stages scan --flags="--seed 1"       with flags of `twinrl demo`

Stages before the first one wanted are run once per commit and kept in `--folder`, with the runs of the last round.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.demo.turn import Plan, StageCost, checkouts
from benchmarks.measure import hardware, spread, table, take_turns
from protos.errors import InputError
from twinrl.run.stages import STAGES

NAMES = tuple(stage.name for stage in STAGES)


@dataclass(frozen=True, kw_only=True)
class DemoBench:
    """The demo by stage: CPU seconds of all processes and wall seconds, of one commit or of several in turns."""

    commits: tuple[str, ...] = (".",)
    """Commits of this checkout; "." is what lies here, changes included. The second is compared with the first."""
    stages: tuple[str, ...] = (NAMES[0], NAMES[-1])
    """First and last stage to measure, or one; `twinrl demo` runs them in this order. An older commit's stage is known
    by its place."""
    rounds: int = 1
    flags: str = ""
    """Flags of `twinrl demo`, for all commits. A kept run was started with those of its time."""
    folder: Path = Path("runs/bench-demo")
    """Runs and worktrees of the commits."""

    def __post_init__(self) -> None:
        for name in self.stages:
            if name not in NAMES:
                raise InputError(f"stages: no stage {name!r}; one of {', '.join(map(repr, NAMES))}")
        if not 1 <= len(self.stages) <= 2 or NAMES.index(self.stages[0]) > NAMES.index(self.stages[-1]):
            raise InputError(f"stages={self.stages}: one stage, or the first and the last of several in their order")
        if not self.commits or len(set(self.commits)) < len(self.commits):
            raise InputError(f"commits={self.commits}: one or more different ones")
        if self.rounds < 1:
            raise InputError(f"rounds={self.rounds}: at least 1")

    @property
    def plan(self) -> Plan:
        """The stages to measure, by place."""
        return Plan(first=NAMES.index(self.stages[0]), last=NAMES.index(self.stages[-1]), flags=self.flags)


def run(settings: DemoBench) -> str:
    """Returns markdown: a row per stage, with the cost at each commit."""
    shlex.split(settings.flags)
    turns: dict[str, Callable[[], list[StageCost]]] = {
        one.label: partial(one.turn, settings.plan) for one in checkouts(settings.commits, settings.folder)
    }
    costs = take_turns(turns, settings.rounds)
    return f"Machine: {hardware()}. Rounds: {settings.rounds}.\n\n{summary(settings.plan, costs)}\n"


def summary(plan: Plan, costs: Mapping[str, Sequence[Sequence[StageCost]]]) -> str:
    """Returns the table of costs by commit, round and stage: medians, ranges, the last commit beside the first."""
    labels = list(costs)
    columns = ["stage", *(f"{label}: {unit}" for label in labels for unit in ("CPU [s]", "wall [s]"))]
    columns += ["CPU, × the first", "wall, × the first"] if len(labels) > 1 else []
    by_stage = [{label: [each[index] for each in costs[label]] for label in labels} for index in _places(plan)]
    whole = {label: [_sum(each) for each in costs[label]] for label in labels}
    rows = [_row(NAMES[plan.first + index], by_stage[index]) for index in _places(plan)]
    return table(columns, [*rows, *([_row("together", whole)] if len(rows) > 1 else [])]) + _first_steps(by_stage)


def _places(plan: Plan) -> range:
    return range(plan.last - plan.first + 1)


def _sum(stages: Sequence[StageCost]) -> StageCost:
    return StageCost(cpu_s=sum(one.cpu_s for one in stages), wall_s=sum(one.wall_s for one in stages))


def _row(name: str, costs: Mapping[str, Sequence[StageCost]]) -> list[str]:
    cells, medians = [name], []
    for of_commit in costs.values():
        cpu, wall = [one.cpu_s for one in of_commit], [one.wall_s for one in of_commit]
        cells += [spread(cpu, 1), spread(wall, 1)]
        medians.append((median(cpu), median(wall)))
    if len(medians) > 1:
        cells += [f"{last / first:.2f}" for first, last in zip(medians[0], medians[-1], strict=True)]
    return cells


def _first_steps(by_stage: Sequence[Mapping[str, Sequence[StageCost]]]) -> str:
    """Returns a line on how soon a fleet stepped, empty where there was none."""
    found = []
    for of_stage in by_stage:
        for label, costs in of_stage.items():
            wall = [one.first_step_s for one in costs if one.first_step_s is not None]
            cpu = [one.first_step_cpu_s for one in costs if one.first_step_cpu_s is not None]
            found += [f"{label} {spread(wall, 1)} s and {spread(cpu, 1)} s of CPU"] if wall else []
    return f"\n\nFirst step of a twin after its stage's begin: {', '.join(found)}." if found else ""
