"""Is the twin worth it? The arms of the method's comparison over drawn labs, after the protocol of arXiv 2602.09023.

    twinrl bench method --labs 20 21 22 23 24             all arms on insert-hexagon-block
    twinrl bench method --task pick_and_place --arms twinrl no_twin
    twinrl bench method --no-measure                      the tables of what was measured so far, here or elsewhere

A lab's seed is the seed of everything in it. Finished units are kept in `--folder`, which may be deleted; each use of
an arm leaves one file in `--results`, and what is there is not measured again, so the comparison can be carried on
anywhere. The same command goes on where it was interrupted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from benchmarks.learning import cells
from benchmarks.learning.cells import Unit
from benchmarks.measure import hardware
from benchmarks.method.arms import ARMS, ArmName, StartName
from benchmarks.method.tables import Found, start_key, tables
from benchmarks.method.units import Trial, practised, starts, trial, tried
from protos.errors import InputError
from protos.settings import load_settings, save_settings
from twin import labs, tasks
from twinrl.run.progress import Progress
from twinrl.run.settings import DemonstrationPlan, EvaluationPlan, RealRlPlan, RunSettings, SftPlan, TwinRlPlan

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class MethodBench:
    """TwinRL beside itself with parts left out, and beside practice without a twin, over drawn labs."""

    task: str = "insert_hexagon_block"
    """One of `twin.tasks.names()`."""
    labs: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of labs; those from 1000 on are for tuning and judge nothing."""
    arms: tuple[ArmName, ...] = tuple(ARMS)
    env_steps: int = 12_000
    """Transitions of the arm in each practice: 20 minutes at 10 Hz."""
    every: int = 2_000
    """Transitions between two policies that are tried."""
    rollouts: int = 10
    """Per region and policy that is tried on the arm."""
    folder: Path = Path("runs/bench-method")
    """Run folders of the units."""
    results: Path = CHECKOUT / "benchmarks" / "results" / "method"
    """One small file per use of an arm."""
    measure: bool = True
    """`--no-measure` only writes the tables of what is there."""
    quick: bool = False
    """Shows that it runs, in minutes: a made-up scene, few demonstrations and steps. Give it its own folders."""

    def __post_init__(self) -> None:
        for name in ("env_steps", "every", "rollouts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: at least 1")
        task = tasks.get(self.task)
        for lab in self.labs:
            labs.get(str(lab), task)
        for name in ("labs", "arms"):
            chosen = getattr(self, name)
            if not chosen or len(set(chosen)) < len(chosen):
                raise InputError(f"{name}={chosen}: one or more different ones")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One unit with, where it uses the arm, the file of its result."""

    title: str
    unit: Unit
    result: Path | None = None

    @property
    def is_done(self) -> bool:
        return self.result.exists() if self.result is not None else self.unit.result() is not None

    def found(self) -> Trial | None:
        """Returns what was measured on the arm, if it was."""
        return load_settings(Trial, self.result) if self.result is not None and self.result.exists() else None


def run(settings: MethodBench) -> str:
    """Returns markdown: the arms over labs, with intervals, and the success curves."""
    if settings.quick:
        settings = replace(settings, env_steps=150, every=60, rollouts=1)
    jobs = _jobs(settings)
    if settings.measure:
        carry_out(jobs)
    found: Found = {key: done for key, job in jobs.items() if (done := job.found()) is not None}
    return f"Machine: {hardware()}.\n\n{tables(settings.task, settings.labs, settings.arms, found)}"


def plan(settings: MethodBench, lab: int) -> RunSettings:
    """Returns the settings of one lab's runs: the paper's budget of demonstrations."""
    few = settings.quick
    return RunSettings(
        name=f"lab{lab}",
        task=settings.task,
        runs=settings.folder / settings.task,
        seed=lab,
        lab=str(lab),
        demonstrations=DemonstrationPlan(real_a=2 if few else 30, twin_a=2 if few else 60, twin_b=2 if few else 30),
        sft=SftPlan(steps=20) if few else SftPlan(),
        twin_rl=TwinRlPlan(env_steps=400) if few else TwinRlPlan(),
        real_rl=RealRlPlan(env_steps=settings.env_steps),
        evaluation=EvaluationPlan(rollouts=2) if few else EvaluationPlan(),
    )


def _jobs(settings: MethodBench) -> dict[tuple[str, int], Job]:
    """Returns all work in its order, lab by lab; what only finished arms need is left out."""
    jobs: dict[tuple[str, int], Job] = {}
    scanned = cells.scan(plan(settings, settings.labs[0]), synthetic=settings.quick)
    for lab in settings.labs:
        of_lab = _jobs_of_lab(settings, lab, scanned)
        if not all(job.is_done for job in of_lab.values() if job.result is not None):
            jobs["scan", 0] = Job(title="scan", unit=scanned)
        jobs |= {(name, lab): job for name, job in of_lab.items()}
    return jobs


def _jobs_of_lab(settings: MethodBench, lab: int, scanned: Unit) -> dict[str, Job]:
    of_lab = plan(settings, lab)
    common = starts(of_lab, scanned)

    def on_arm(name: str, title: str, unit: Unit) -> Job:
        path = settings.results / settings.task / f"lab{lab}-{name}.json"
        return Job(title=f"{title}, lab {lab}", unit=unit, result=path)

    by_start: dict[StartName, dict[str, Job]] = {}
    for name in settings.arms:
        arm = ARMS[name]
        start = common.policies[arm.start]
        ways = by_start.setdefault(arm.start, {})
        key = start_key(arm.start)
        ways.setdefault(key, on_arm(key, f"{arm.start} on the arm", tried(of_lab, start, settings.rollouts)))
        unit = practised(of_lab, start, name, every=settings.every, rollouts=settings.rollouts)
        ways[name] = on_arm(name, arm.title, unit)
    jobs: dict[str, Job] = {}
    for start_name, ways in by_start.items():
        if not all(job.is_done for job in ways.values()):
            for unit in common.needed(start_name):
                folder = unit.folder.parent.name
                jobs.setdefault(folder, Job(title=f"{folder}, lab {lab}", unit=unit))
        jobs |= ways
    return jobs


def carry_out(jobs: Mapping[tuple[str, int], Job]) -> None:
    """Does what is not done yet, in its order, and keeps the results."""
    with Progress([job.title for job in jobs.values()], console=Console(stderr=True)) as progress:
        for job in jobs.values():
            if job.is_done:
                progress.skip(job.title, "measured before")
                continue
            with progress.stage(job.title, total=job.unit.total, unit=job.unit.counted) as view:
                job.unit.run(view)
                view.update(job.unit.total)
            if job.result is not None:
                save_settings(trial(job.unit), job.result)
