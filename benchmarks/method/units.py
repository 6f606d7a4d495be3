"""The units of the comparison: each is a run folder of its own, made once per lab and then kept.

scan ─► demonstrations of the arm ─► SFT A ───────────────────────────────┐
│             └────► untrained ───────────────────────────┤
└► and of the twin ─► SFT A + B ──────────────────────────┼─► tried on the arm
└────► twin RL ─────────────────┘   └► real RL, once per arm
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.learning import cells
from benchmarks.learning.cells import Unit, take
from benchmarks.learning.variants import VariantContext
from benchmarks.method.arms import ARMS, Arm, ArmName, StartName
from benchmarks.method.measures import Point, Practice, practice
from benchmarks.method.snapshots import Snapshots, saved
from learner.stage import Selection
from protos.files import read_lines
from protos.schema import Source
from protos.settings import load_settings, save_settings
from twin import tasks
from twinrl.run import real_stages, stages
from twinrl.run.context import WorldSeed
from twinrl.run.progress import Stage as View
from twinrl.run.real_stages import Start
from twinrl.run.settings import EvaluationPlan, RunSettings

TRIAL, SNAPSHOTS = "trial.json", "snapshots"


@dataclass(frozen=True, kw_only=True)
class Starts:
    """The units that the arms of one lab have in common."""

    shown: tuple[Unit, ...]
    """Demonstrations, in their order."""
    policies: Mapping[StartName, Unit]
    """Each ends with a policy to practise with."""

    def needed(self, start: StartName) -> tuple[Unit, ...]:
        """Returns what has to be made before real RL from a start, in its order."""
        unit = self.policies[start]
        if start in ("untrained", "sft_a"):
            return (self.shown[0], unit)
        before = () if start == "sft_ab" else (self.policies["sft_ab"],)
        return (*self.shown, *before, unit)


def starts(plan: RunSettings, scanned: Unit) -> Starts:
    """Returns what the arms of a lab have in common."""
    shown = _arm_demonstrations(plan, scanned)
    both = twin_demonstrations(plan, shown)
    of_arm = (Selection(source=Source.REAL, region="A"),)
    one_step = replace(plan, sft=replace(plan.sft, steps=1))
    sft_ab = cells.sft(plan, both)
    units: dict[StartName, Unit] = {
        "untrained": cells.sft(one_step, shown, name="sft_untrained", select=of_arm),
        "sft_a": cells.sft(plan, shown, name="sft_a", select=of_arm),
        "sft_ab": sft_ab,
        "twin_rl": cells.twin_rl(plan, sft_ab, "demo", short=False),
    }
    return Starts(shown=(shown, both), policies=units)


def _arm_demonstrations(plan: RunSettings, scanned: Unit) -> Unit:
    def make(context: VariantContext, view: View) -> None:
        take(scanned, context, "scene")
        real_stages.start_demonstrations(context)
        stages.arm_demonstrations(context)

    count = plan.demonstrations.real_a
    return Unit(settings=_within(plan, "arm-demonstrations"), total=count, counted="episodes", make=make)


def twin_demonstrations(plan: RunSettings, shown: Unit) -> Unit:
    """Adds the twin's demonstrations to the arm's; the twin is identified first where the plan wants that."""

    def make(context: VariantContext, view: View) -> None:
        take(shown, context, "scene", "replay")
        stages.identify(context)
        stages.twin_demonstrations(context)

    count = plan.demonstrations.twin_a + plan.demonstrations.twin_b
    return Unit(settings=_within(plan, "twin-demonstrations"), total=count, counted="episodes", make=make)


def _within(plan: RunSettings, name: str) -> RunSettings:
    return replace(plan, runs=plan.runs / name)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial is the use of a lab's arm: one policy was tried, or practised and was tried now and then."""

    practice: Practice | None = None
    points: tuple[Point, ...] = ()
    """The policy at the start of a practice is tried once for all that start from it."""


def tried(plan: RunSettings, start: Unit, rollouts: int) -> Unit:
    """A start's policy on the arm, without practice."""

    def make(context: VariantContext, view: View) -> None:
        take(start, context, "scene", start.policy)
        point = _point(context, view, start.policy, steps=0, rollouts=rollouts)
        save_settings(Trial(points=(point,)), context.folder / TRIAL)

    return Unit(settings=_within(plan, f"{start.policy}-on-arm"), total=2 * rollouts, counted="episodes", make=make)


def practised(plan: RunSettings, start: Unit, name: ArmName, *, every: int, rollouts: int) -> Unit:
    """Real RL as an arm of the comparison does it, its policies tried every so many steps."""
    arm = ARMS[name]
    settings = replace(_within(plan, name), real_rl=arm.plan(plan.real_rl))

    def make(context: VariantContext, view: View) -> None:
        _practise(context, view, start, arm, every)
        points = [
            _point(context, view, f"{SNAPSHOTS}/{steps}", steps=steps, rollouts=rollouts)
            for steps in saved(context.folder / SNAPSHOTS)
            if steps < settings.real_rl.env_steps
        ]
        points.append(_point(context, view, "real_rl", steps=context.settings.real_rl.env_steps, rollouts=rollouts))
        episodes = read_lines(context.folder / "real_rl" / "episodes.jsonl")
        save_settings(Trial(practice=practice(episodes), points=tuple(points)), context.folder / TRIAL)

    steps = settings.real_rl.env_steps
    return Unit(settings=settings, steps=steps, total=steps, counted="steps", make=make)


def trial(unit: Unit) -> Trial:
    """Returns what a finished unit of this module measured on the arm."""
    return load_settings(Trial, unit.folder / TRIAL)


def _practise(context: VariantContext, view: View, start: Unit, arm: Arm, every: int) -> None:
    weights = ("weights",) if start.policy == "twin_rl" else ()  # its versions go on
    take(start, context, "scene", "replay", start.policy, *weights)
    folder = context.folder / start.policy
    begin = Start(
        policy=folder / "policy",
        critics=folder / "checkpoint" if start.policy == "twin_rl" else None,
        success=real_stages.success_by_cell(start.folder / "eval.jsonl") if arm.is_guided else {},
        version=int(stages.last_metrics(folder).get("version", -1)),
    )

    def steps() -> int:
        return int(stages.last_metrics(context.folder / "real_rl").get("step", 0))

    with Snapshots(
        context.services.weights(),
        context.folder / SNAPSHOTS,
        instruction=tasks.get(context.settings.task).instruction,
        every=every,
        steps=steps,
    ):
        real_stages.real_rl(context, view, twin=stages.world(context, WorldSeed.TWIN_BESIDE_ARM), start=begin)


def _point(context: VariantContext, view: View, policy: str, *, steps: int, rollouts: int) -> Point:
    """Tries a policy of the folder on the arm, from starts that are the same for all policies of a lab."""
    tried = replace(context, settings=replace(context.settings, evaluation=EvaluationPlan(rollouts=rollouts)))
    name = policy.replace("/", "-")
    real_stages.evaluate(tried, view, policy=policy, name=name)
    lines = read_lines(context.folder / "eval" / f"{name}_standin.jsonl")
    regions = sorted({line["region"] for line in lines})
    successes = {one: sum(bool(line["success"]) for line in lines if line["region"] == one) for one in regions}
    return Point(steps=steps, successes=successes, rollouts=rollouts)
