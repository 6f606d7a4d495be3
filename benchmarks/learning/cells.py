"""The units of the learning benchmark: each is a run folder of its own, made once and then kept.

    scan ─► demonstrations of a seed ─► SFT of a seed ─► twin RL of a seed, one folder for each variant
                    replay ── copied ──► replay ─ copied ─► replay

So all variants start from the same policy and the same demonstrations, and none sees what another's actors did. A unit
that has its `result.json` is done; one that was interrupted begins anew.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from actors.sim import EvaluationSettings
from benchmarks.cost import Meter
from benchmarks.learning.variants import VARIANTS, Change, Variant, VariantContext
from learner.sft import TrainSettings
from learner.stage import RlSettings, Selection, SftSettings
from protos.errors import InputError
from protos.files import read_lines
from protos.folders import owned
from protos.schema import Source
from protos.settings import load_settings, save_settings
from twin import tasks
from twin.scene import synthetic_scene
from twinrl import identification
from twinrl.run import stages
from twinrl.run.context import Services, WorldSeed
from twinrl.run.for_task import labels_for, policy_for
from twinrl.run.progress import Stage as View
from twinrl.run.settings import RunSettings
from twinrl.run.supervisor import Supervisor

RESULT = "result.json"
ARM_AND_TWIN = (Selection(source=Source.REAL, region="A"), Selection(source=Source.TWIN))
"""Demonstrations of both regions: the arm's in A and all of the twin's."""
_MARK = "of-bench-learning"
"""A file in each unit's folder; what lacks it is not ours to clear away."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The cost of a unit of work and, where it leaves a policy behind, the policy's success."""

    steps: int
    """Optimizer steps of SFT, transitions of RL."""
    rollouts: int
    """Per region; 0 where nothing was tried."""
    successes: dict[str, int] = field(default_factory=dict)
    """Successes by region."""
    updates: int = 0
    cpu_s: float
    """CPU time of everything it started, Ray included, the evaluation not."""
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One folder: how it is made from the run settings that name it."""

    settings: RunSettings
    steps: int = 0
    total: float
    counted: str
    """Unit of `total`, for the display."""
    make: Callable[[VariantContext, View], None]
    policy: str = ""
    """Folder of the policy that it leaves behind and that is tried."""
    change: Change = VARIANTS["demo"][1]

    @property
    def folder(self) -> Path:
        return self.settings.folder

    def result(self) -> Result | None:
        """Reads what was measured before. Raises InputError if that was of another size."""
        path = self.folder / RESULT
        if not path.exists():
            return None
        found = load_settings(Result, path)
        wanted = {"steps": self.steps, "rollouts": self.settings.evaluation.rollouts if self.policy else 0}
        for name, value in wanted.items():
            if getattr(found, name) != value:
                raise InputError(f"{path}: {name}={getattr(found, name)}, wanted {value}; choose another --folder")
        return found

    def run(self, view: View) -> Result:
        """Makes the folder anew and measures."""
        if self.folder.exists():
            if not (self.folder / _MARK).exists():
                raise InputError(f"{self.folder} is not of this benchmark; choose another --folder")
            shutil.rmtree(self.folder)
        with running(self.settings, self.change) as context:
            with Meter() as meter:
                self.make(context, view)
            successes = _evaluate(context, self.policy) if self.policy else {}
        found = Result(
            steps=self.steps,
            rollouts=self.settings.evaluation.rollouts if self.policy else 0,
            successes=successes,
            updates=_updates(self.folder / self.policy) if self.policy else 0,
            cpu_s=round(meter.cpu_s, 1),
            wall_s=round(meter.wall_s, 1),
        )
        save_settings(found, self.folder / RESULT)
        return found


@contextmanager
def running(settings: RunSettings, change: Change) -> Iterator[VariantContext]:
    """A run's supervisor and services around a block; all have ended after it."""
    folder = settings.folder
    with (
        owned(folder, "twinrl bench learning", instead="choose another --folder") as ownership,
        Supervisor(folder, ownership=ownership) as supervisor,
    ):
        (folder / _MARK).touch()
        save_settings(settings, folder / "settings.json")
        services = Services(folder, settings, supervisor)
        yield VariantContext(folder=folder, settings=settings, supervisor=supervisor, services=services, change=change)


def scan(plan: RunSettings, *, synthetic: bool) -> Unit:
    """The workspace, once for all."""

    def make(context: VariantContext, view: View) -> None:
        if synthetic:
            synthetic_scene().save(context.folder / "scene")
        else:
            stages.scan(context, view)

    return Unit(settings=replace(plan, name="scan"), total=100, counted="percent", make=make)


def demonstrations(plan: RunSettings, scanned: Unit) -> Unit:
    """Records demonstrations on the stand-in arm and in the twin, as the demo does."""

    def make(context: VariantContext, view: View) -> None:
        take(scanned, context, "scene")
        stages.demonstrations(context, view)

    wanted = plan.demonstrations
    return Unit(
        settings=replace(plan, runs=plan.runs / "demonstrations"),
        total=wanted.real_a + wanted.twin_a + wanted.twin_b,
        counted="episodes",
        make=make,
    )


def sft(plan: RunSettings, shown: Unit, *, name: str = "sft_ab", select: tuple[Selection, ...] = ARM_AND_TWIN) -> Unit:
    """A policy from which RL may start: SFT on demonstrations."""

    def make(context: VariantContext, view: View) -> None:
        take(shown, context, "scene", "replay")
        run, task = context.settings, tasks.get(context.settings.task)
        settings = SftSettings(
            replay=context.services.replay(),
            select=select,
            schema=run.schema,
            policy=policy_for(task),
            train=TrainSettings(steps=run.sft.steps, batch_size=run.sft.batch, seed=run.seed, labels=labels_for(task)),
        )
        out = context.folder / name
        context.start(name, "learner", "sft", settings=settings, arguments=("--out", str(out)))
        context.supervisor.wait(name, timeout_s=3600, poll=lambda: view.update(stages.last_metrics(out).get("step", 0)))

    steps = plan.sft.steps
    return Unit(
        settings=replace(plan, runs=plan.runs / (f"sft-{steps}" if name == "sft_ab" else f"{name}-{steps}")),
        steps=steps,
        total=steps,
        counted="steps",
        make=make,
        policy=name,
    )


def twin_rl(plan: RunSettings, start: Unit, variant: Variant, *, short: bool) -> Unit:
    """Twin RL as the demo runs it, but for what the variant changes; `short` leaves most of the warm-up out."""
    changed = VARIANTS[variant][1]

    def make(context: VariantContext, view: View) -> None:
        take(start, context, "scene", "replay", "sft_ab")
        stages.twin_rl(context, view)

    return Unit(
        settings=replace(plan, runs=plan.runs / f"sft-{plan.sft.steps}-{variant}"),
        steps=plan.twin_rl.env_steps,
        total=plan.twin_rl.env_steps,
        counted="steps",
        make=make,
        policy="twin_rl",
        change=(lambda rl: _shortened(changed(rl))) if short else changed,
    )


def _shortened(rl: RlSettings) -> RlSettings:
    return replace(rl, loop=replace(rl.loop, warmup_updates=5, start_after=50))


def take(unit: Unit, context: VariantContext, *names: str) -> None:
    """Copies folders of a finished unit, and with its scene what was identified of it."""
    for name in names:
        shutil.copytree(unit.folder / name, context.folder / name)
    if "scene" in names and context.settings.identify and (unit.folder / identification.NAME).exists():
        shutil.copy(unit.folder / identification.NAME, context.folder)
        shutil.copytree(unit.folder / identification.SCENE, context.folder / identification.SCENE)


def _evaluate(context: VariantContext, policy: str) -> dict[str, int]:
    """Successes by region from starts that are the same for all policies of a seed."""
    run, out = context.settings, context.folder / "eval.jsonl"
    world = stages.world(context, WorldSeed.EVALUATE_TWIN_RL)
    settings = EvaluationSettings(
        world=world, policy=context.folder / policy / "policy", out=out, rollouts=run.evaluation.rollouts
    )
    context.start("evaluate", "actors.sim", "evaluate", settings=settings)
    context.supervisor.wait("evaluate", timeout_s=900)
    found: dict[str, int] = {}
    for line in read_lines(out):
        found[line["region"]] = found.get(line["region"], 0) + bool(line["success"])
    return dict(sorted(found.items()))


def _updates(folder: Path) -> int:
    line = stages.last_metrics(folder)
    return int(line.get("updates", line.get("step", 0)))
