"""Does it learn, and what is each part of the RL stage worth? The real system over several seeds.

    twinrl bench learning                            the goal and the ablation
    twinrl bench learning --task erase_whiteboard    another task
    twinrl bench learning --sft-steps 600            the same from a policy that fails often
    twinrl bench learning --no-measure               the tables of what was measured so far

Finished units are kept in `--folder`; the same command goes on where it was interrupted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from benchmarks.learning import cells
from benchmarks.learning.cells import Result, Unit
from benchmarks.learning.variants import VARIANTS, Variant
from benchmarks.measure import hardware, table
from protos.errors import InputError
from twin import tasks
from twinrl.report.inputs import Rate
from twinrl.run.progress import Progress
from twinrl.run.settings import DemonstrationPlan, EvaluationPlan, RunSettings, SftPlan, TwinRlPlan

START = "SFT"
Key = tuple[str, int]
"""The work that was done, and its seed: "scan", "demonstrations", START or a variant."""
COLUMNS = (
    "RL stage",
    "A, by seed",
    "B, by seed",
    "A, all [%]",
    "B, all [%]",
    "CPU [s]",
    "wall [s]",
    "updates",
)


@dataclass(frozen=True, kw_only=True)
class LearningBench:
    """SFT on demonstrations, then twin RL with the real system (Ray actors, replay, weights, learner), over seeds."""

    task: str = "pick_and_place"
    """One of `twin.tasks.names()`. Each task has a folder of its own under `folder`, but the first."""
    seeds: tuple[int, ...] = (0, 1, 2)
    variants: tuple[Variant, ...] = ("demo", "no_bc", "no_calql", "backbone", "one_step")
    """Each starts from the same SFT policy and demonstrations of its seed."""
    sft_steps: int = SftPlan().steps
    """Fewer than the demo's leave a policy that fails often, so that RL has something to gain."""
    env_steps: int = 12_000
    """Transitions of each RL stage."""
    rollouts: int = 100
    """Per region and policy."""
    folder: Path = Path("runs/bench-learning")
    """Run folders and results; what is there already is not measured again."""
    measure: bool = True
    """`--no-measure` only writes the tables of what is there."""
    quick: bool = False
    """Shows that it runs, in a minute or two: a made-up scene, few demonstrations, one seed. Give it its own folder."""

    def __post_init__(self) -> None:
        for name in ("sft_steps", "env_steps", "rollouts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: at least 1")
        tasks.get(self.task)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds={self.seeds}: one or more different seeds")


def run(settings: LearningBench) -> str:
    """Markdown: success before and after RL for each seed and variant, with intervals and costs."""
    if settings.quick:
        settings = replace(settings, seeds=settings.seeds[:1], sft_steps=20, env_steps=400, rollouts=2)
    units = _units(settings)
    if settings.measure:
        found = _measure(units)
    else:
        found = {key: done for key, unit in units.items() if (done := unit.result()) is not None}
    return f"Machine: {hardware()}.\n\n{summary(settings, found)}"


def plan(settings: LearningBench, seed: int) -> RunSettings:
    """The demo's settings with this benchmark's sizes."""
    first = LearningBench.task
    return RunSettings(
        name=f"seed{seed}",
        task=settings.task,
        runs=settings.folder if settings.task == first else settings.folder / settings.task,
        seed=seed,
        demonstrations=DemonstrationPlan(real_a=2, twin_a=4, twin_b=4) if settings.quick else DemonstrationPlan(),
        sft=SftPlan(steps=settings.sft_steps),
        twin_rl=TwinRlPlan(env_steps=settings.env_steps),
        evaluation=EvaluationPlan(rollouts=settings.rollouts),
    )


def _units(settings: LearningBench) -> dict[Key, Unit]:
    """Everything to do in its order: seed by seed, so that a slow hour of the machine hits all variants of a seed."""
    units: dict[Key, Unit] = {}
    for seed in settings.seeds:
        of_seed = plan(settings, seed)
        scanned = units["scan", seed] = cells.scan(of_seed, synthetic=settings.quick)
        shown = units["demonstrations", seed] = cells.demonstrations(of_seed, scanned)
        start = units[START, seed] = cells.sft(of_seed, shown)
        for variant in settings.variants:
            units[variant, seed] = cells.twin_rl(of_seed, start, variant, short=settings.quick)
    return units


def _measure(units: Mapping[Key, Unit]) -> dict[Key, Result]:
    """All results, measured where they are missing."""
    names = {key: f"{key[0].replace('_', ' ')}, seed {key[1]}" for key in units}
    found: dict[Key, Result] = {}
    with Progress(list(names.values()), console=Console(stderr=True)) as progress:
        for key, unit in units.items():
            done = unit.result()
            if done is not None:
                progress.skip(names[key], "measured before")
            else:
                with progress.stage(names[key], total=unit.total, unit=unit.counted) as view:
                    done = unit.run(view)
                    view.update(unit.total, **done.successes)
            found[key] = done
    return found


def summary(settings: LearningBench, found: Mapping[Key, Result]) -> str:
    """One row for the start and one for each variant; a seed that was not measured shows as a dash."""
    text = (
        f"Task {settings.task}. SFT of {settings.sft_steps:,} steps, RL of {settings.env_steps:,} transitions, "
        f"{settings.rollouts} rollouts per region; seeds {', '.join(map(str, settings.seeds))}."
    )
    names = {START: "none: the policy after SFT"} | {variant: VARIANTS[variant][0] for variant in settings.variants}
    rows = [_row(name, [found.get((key, seed)) for seed in settings.seeds]) for key, name in names.items()]
    return f"{text}\n\n{table(COLUMNS, rows)}\n"


def _row(name: str, results: Sequence[Result | None]) -> tuple[str, ...]:
    there = [result for result in results if result is not None]
    by_seed = [
        " / ".join("–" if result is None else str(result.successes.get(region, 0)) for result in results)
        for region in "AB"
    ]
    if not there:
        return (name, *by_seed, "–", "–", "–", "–", "–")
    rates = [
        Rate(
            successes=sum(result.successes.get(region, 0) for result in there),
            trials=sum(result.rollouts for result in there),
        )
        for region in "AB"
    ]
    costs = [sum(getattr(result, column) for result in there) / len(there) for column in ("cpu_s", "wall_s", "updates")]
    return (name, *by_seed, *map(percent, rates), *(f"{cost:,.0f}" for cost in costs))


def percent(rate: Rate) -> str:
    """Share and 95 % Wilson interval, as in "97.0 (94.4 – 98.4)"."""
    low, high = rate.interval()
    return f"{100 * rate.share:.1f} ({100 * low:.1f} – {100 * high:.1f})"
