"""This module holds the stages of a run. A stage is a function of the run's context. It starts child processes with
settings files of their own, follows their progress through the files they write, and returns what it counted.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.real import Station
from actors.sim import (
    DemonstrationSettings,
    EvaluationSettings,
    ExpansionPlan,
    ExpansionRunSettings,
    FleetSettings,
    TwinWorld,
)
from learner.rl import LoopSettings
from learner.sft import TrainSettings
from learner.stage import RlSettings, Selection, SftSettings
from protos.files import write_durably
from protos.problems import doing
from protos.schema import Source
from protos.settings import to_json
from protos.status import read_status
from services.telemetry import read_metrics
from twin import labs, tasks
from twinrl import identification
from twinrl.fidelity import measure as fidelity
from twinrl.report.images import write_images
from twinrl.run import real_stages
from twinrl.run.context import DEMONSTRATIONS_TIMEOUT_S, RL_TIMEOUT_S, RunContext, WorldSeed
from twinrl.run.for_task import exploration, labels_for, policy_for
from twinrl.run.progress import Stage as View
from twinrl.run.scan import ScanJob
from twinrl.run.settings import RunSettings

SCAN_TIMEOUT_S = 3600.0
"""Deadline of a scan of the capture."""
SFT_TIMEOUT_S = 3600.0
"""Deadline of both fine-tunings, which run side by side."""
EVALUATION_TIMEOUT_S = 900.0
"""Deadline of evaluations in the twin."""
EVALUATION_SEEDS = {
    "sft_a": WorldSeed.EVALUATE_SFT,
    "sft_ab": WorldSeed.EVALUATE_SFT,
    "twin_rl": WorldSeed.EVALUATE_TWIN_RL,
}
"""Both SFT policies face the same starts; the policy after RL faces new ones."""


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage: its name in the log, what it counts, and how to run it."""

    name: str
    unit: str
    total: Callable[[RunSettings], float]
    run: Callable[[RunContext, View], float]
    asks: Callable[[RunSettings, Station], str] | None = None
    """Says what a stage on the arm needs of the person at a station; empty for nothing. None: it moves no arm."""


def scan(context: RunContext, view: View) -> float:
    """Photos or video → scene folder with a report of its own."""
    job = ScanJob(source=context.settings.capture, out=context.folder / "scene", settings=context.settings.scan)
    context.start("scan", "twinrl.run.scan", settings=job)
    context.supervisor.wait("scan", timeout_s=SCAN_TIMEOUT_S, poll=lambda: _follow_scan(context, view))
    view.update(100)
    return 100


def demonstrations(context: RunContext, view: View) -> float:
    """The operator on the arm in region A, and the twin's in A and B: side by side, or made of the operator's."""
    plan = context.settings.demonstrations
    real_stages.start_demonstrations(context)
    if context.station is None and plan.source == "expert" and not context.settings.identify:
        twin_demonstrations(context)
        arm_demonstrations(context)
    else:
        arm_demonstrations(context)
        identify(context)
        twin_demonstrations(context)
    total = plan.real_a + plan.twin_a + plan.twin_b
    view.update(total)
    return total


def arm_demonstrations(context: RunContext) -> None:
    """Waits for the demonstrations on the arm that were started."""
    context.supervisor.wait("demonstrations-arm", timeout_s=context.timeout_s(DEMONSTRATIONS_TIMEOUT_S))
    real_stages.stop_standins(context, "demonstrations")


def identify(context: RunContext) -> None:
    """Makes the twin as the arm's demonstrations show it, if the run wants that."""
    if context.settings.identify:
        run = context.settings
        identification.keep(context.folder, identification.identify_run(context.folder, context.services.replay(), run))


def twin_demonstrations(context: RunContext) -> None:
    """The twin's demonstrations, by its expert or expanded from the arm's."""
    start = _start_twin_expert if context.settings.demonstrations.source == "expert" else _start_expansion
    start(context)
    context.supervisor.wait("demonstrations-twin", timeout_s=DEMONSTRATIONS_TIMEOUT_S)


def _start_twin_expert(context: RunContext) -> None:
    plan = context.settings.demonstrations
    settings = DemonstrationSettings(
        world=world(context, WorldSeed.TWIN_DEMONSTRATIONS),
        replay=context.services.replay(),
        episodes={"A": plan.twin_a, "B": plan.twin_b},
        disturbance=plan.disturbance,
    )
    context.start("demonstrations-twin", "actors.sim", "demonstrate", settings=settings)


def _start_expansion(context: RunContext) -> None:
    plan = context.settings.demonstrations
    settings = ExpansionRunSettings(
        world=world(context, WorldSeed.TWIN_DEMONSTRATIONS),
        replay=context.services.replay(),
        plan=ExpansionPlan(episodes={"A": plan.twin_a, "B": plan.twin_b}, disturbance=plan.disturbance),
        report=(context.folder / "coverage.json").absolute(),
    )
    context.start("demonstrations-twin", "actors.sim", "expand", settings=settings)


def sft(context: RunContext, view: View) -> float:
    """Two policies from the same network and steps: demonstrations of A only, and of A and B."""
    plan, task = context.settings.sft, tasks.get(context.settings.task)
    selections = {
        "sft_a": (Selection(source=Source.REAL, region="A"),),
        "sft_ab": (Selection(source=Source.REAL, region="A"), Selection(source=Source.TWIN)),
    }
    for name, select in selections.items():
        settings = SftSettings(
            replay=context.services.replay(),
            select=select,
            schema=context.settings.schema,
            policy=policy_for(task),
            train=TrainSettings(
                steps=plan.steps, batch_size=plan.batch, seed=context.settings.seed, labels=labels_for(task)
            ),
        )
        context.start(name, "learner", "sft", settings=settings, arguments=("--out", str(context.folder / name)))
    context.supervisor.wait(
        *selections, timeout_s=SFT_TIMEOUT_S, poll=lambda: _follow_steps(context, view, *selections)
    )
    view.update(2 * plan.steps)
    return 2 * plan.steps


def evaluate_sft(context: RunContext, view: View) -> float:
    """Both SFT policies in the twin, from every cell of both regions."""
    for name in ("sft_a", "sft_ab"):
        _start_evaluation(context, name)
    context.supervisor.wait("evaluate-sft_a", "evaluate-sft_ab", timeout_s=EVALUATION_TIMEOUT_S)
    view.update(2 * context.settings.episodes_per_evaluation)
    return 2 * context.settings.episodes_per_evaluation


def twin_rl(context: RunContext, view: View) -> float:
    """Ray actors fill the buffer "twin", the learner updates and publishes; ends when the learner has its steps."""
    settings, plan = context.settings, context.settings.twin_rl
    learner = RlSettings(
        replay=context.services.replay(),
        policy=context.folder / "sft_ab" / "policy",
        stage="twin_rl",
        weights=context.services.weights(),
        wire_dtype="f32",
        schema=settings.schema,
        loop=LoopSettings(env_steps=plan.env_steps, publish_every=plan.publish_every, slack=plan.slack),
        seed=settings.seed,
    )
    out = str(context.folder / "twin_rl")
    context.start("twin_rl", "learner", "rl", settings=learner, arguments=("--out", out, "--resume"))
    fleet = FleetSettings(
        world=world(context, WorldSeed.TWIN_RL),
        replay=context.services.replay(),
        weights=context.services.weights(),
        run_dir=context.folder.absolute(),
        actors=plan.actors,
        twins_per_actor=plan.twins_per_actor,
        groups=plan.groups,
        explore=exploration(tasks.get(settings.task), plan.explore),
    )
    context.start("fleet", "actors.sim", "fleet", settings=fleet)
    context.supervisor.wait("twin_rl", timeout_s=RL_TIMEOUT_S, poll=lambda: _follow_rl(context, view))
    context.supervisor.stop("fleet")
    view.update(plan.env_steps)
    return plan.env_steps


def evaluate_twin_rl(context: RunContext, view: View) -> float:
    """The policy after twin RL in the twin: the report's heat-map and the guide's S_target."""
    _start_evaluation(context, "twin_rl")
    context.supervisor.wait("evaluate-twin_rl", timeout_s=EVALUATION_TIMEOUT_S)
    view.update(context.settings.episodes_per_evaluation)
    return context.settings.episodes_per_evaluation


def real_rl(context: RunContext, view: View) -> float:
    """RL on the arm, with twins beside it."""
    start, twin = real_stages.Start.of_twin_rl(context), world(context, WorldSeed.TWIN_BESIDE_ARM)
    return real_stages.real_rl(context, view, start=start, twin=twin)


def report(context: RunContext, view: View) -> float:
    """The twin's fidelity, the lab's numbers, images of both worlds, then the page."""
    from twinrl.report.page import write_report

    run = context.settings
    with doing("writing the report", context.folder):
        twin = identification.twin_of_run(context.folder, run)
        measured = fidelity.measure_run(context.folder, context.services.replay(), run.schema, twin, seed=run.seed)
        fidelity.write(context.folder, measured)
        shown = None
        if context.station is None:
            lab = labs.get(run.lab, tasks.get(run.task))
            write_durably(context.folder / "lab.json", [json.dumps(to_json(lab), indent=2).encode()])
        else:
            shown = fidelity.episodes_of_arm(context.services.replay(), run.schema, "demo")[0]
        write_images(context.folder, run, twin, shown=shown)
        write_report(context.folder)
    view.update(1)
    return 1


def world(context: RunContext, seed: WorldSeed) -> TwinWorld:
    """Returns the run's twin, identified where the run wants that, with the random numbers of one of its uses."""
    settings = context.settings
    scene, domain = identification.twin_of_run(context.folder, settings)
    return TwinWorld(
        scene=scene.absolute(),
        task=settings.task,
        domain=domain,
        schema=settings.schema,
        seed=context.world_seed(seed),
    )


def _start_evaluation(context: RunContext, name: str) -> None:
    settings = EvaluationSettings(
        world=world(context, EVALUATION_SEEDS[name]),
        policy=context.folder / name / "policy",
        out=context.folder / "eval" / f"{name}_twin.jsonl",
        rollouts=context.settings.evaluation.rollouts,
    )
    context.start(f"evaluate-{name}", "actors.sim", "evaluate", settings=settings)


def last_metrics(folder: Path) -> dict[str, Any]:
    """The newest line of a stage's metrics, empty before the first."""
    lines = read_metrics(folder / "metrics.jsonl")
    return lines[-1] if lines else {}


def _follow_scan(context: RunContext, view: View) -> None:
    status = read_status(context.supervisor.logs / "scan.status.json")
    if status is not None:
        view.update(status.rates.get("percent", 0.0), doing=status.doing)


def _follow_steps(context: RunContext, view: View, *names: str) -> None:
    view.update(sum(last_metrics(context.folder / name).get("step", 0) for name in names))


def _follow_rl(context: RunContext, view: View) -> None:
    line = last_metrics(context.folder / "twin_rl")
    fleet = read_status(context.supervisor.logs / "fleet.status.json")
    notes = {} if fleet is None else {"episodes": int(fleet.rates.get("episodes", 0))}
    if line:
        view.update(line.get("step", 0), **notes)


def per_evaluation(settings: RunSettings) -> float:
    return settings.episodes_per_evaluation


STAGES = (
    StageSpec(name="scan", unit="percent", total=lambda s: 100, run=scan),
    StageSpec(
        name="demonstrations",
        unit="episodes",
        total=lambda s: s.demonstrations.real_a + s.demonstrations.twin_a + s.demonstrations.twin_b,
        run=demonstrations,
        asks=real_stages.showing,
    ),
    StageSpec(name="SFT", unit="steps", total=lambda s: 2 * s.sft.steps, run=sft),
    StageSpec(name="SFT in the twin", unit="episodes", total=lambda s: 2 * per_evaluation(s), run=evaluate_sft),
    StageSpec(name="twin RL", unit="steps", total=lambda s: s.twin_rl.env_steps, run=twin_rl),
    StageSpec(name="twin RL in the twin", unit="episodes", total=per_evaluation, run=evaluate_twin_rl),
    StageSpec(
        name="arm before",
        unit="episodes",
        total=per_evaluation,
        run=real_stages.evaluate_before,
        asks=real_stages.trying,
    ),
    StageSpec(name="real RL", unit="steps", total=lambda s: s.real_rl.env_steps, run=real_rl, asks=real_stages.helping),
    StageSpec(
        name="arm after",
        unit="episodes",
        total=per_evaluation,
        run=real_stages.evaluate_after,
        asks=real_stages.trying,
    ),
    StageSpec(name="report", unit="page", total=lambda s: 1, run=report),
)
