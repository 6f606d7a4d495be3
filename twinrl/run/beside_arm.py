"""The twins beside the arm: while it practises, some collect for the learner and some scan for the guide.

    weights ─► policy server ─► collecting twins ─► buffer "twin" ─► learner (a share of every batch)
                             └► scanning twins ───► guide ─────────► S_target ─► arm

They cost guidance when they are lost, and never the arm's session: the fleet is a child that the run can do without.
"""

from collections.abc import Mapping

from actors.sim import FleetSettings, TwinWorld
from learner.rl import BatchSettings
from protos.schema import Buffer
from services.guide import GuideClient, GuideSettings
from twin import tasks
from twinrl.run.context import RunContext
from twinrl.run.for_task import exploration
from twinrl.run.settings import RealRlPlan

CHILD = "fleet"
METRICS = "beside_arm"
"""Stage name of the fleet's lines in the run's metrics."""
FRESH_ROWS = 64
TWIN_CAPACITY = 10_000
"""Newest transitions of the twin that real RL draws from: the first ones are of twin RL."""


def batch(plan: RealRlPlan) -> BatchSettings:
    """Returns half fresh experience, of which the twin's share is a part, and half demonstrations."""
    twin = round(2 * FRESH_ROWS * plan.twin_share)
    online: dict[Buffer, int] = {"real": FRESH_ROWS - twin}
    if twin:
        online["twin"] = twin
    return BatchSettings(
        online=online, demo={"demo": 48, "human": 16}, capacity={**BatchSettings().capacity, "twin": TWIN_CAPACITY}
    )


def start_guide(context: RunContext, evaluation: Mapping[int, tuple[int, int]], *, version: int) -> str:
    """Starts the guide with the success per cell of the policy that real RL begins with; returns its address.

    `version` is that policy's.
    """
    run, plan = context.settings, context.settings.real_rl
    settings = GuideSettings(
        space=tasks.get(run.task).space,
        regions=plan.regions,
        tau=plan.tau,
        half_life=plan.scan.half_life,
        refresh=plan.scan.refresh,
        rollouts=plan.scan.rollouts,
        seed=run.seed,
    )
    address = context.services.guide(settings)
    client = GuideClient(address)
    client.set_success(evaluation, version=version)
    client.close()
    return address


def start_twins(context: RunContext, world: TwinWorld, guide: str) -> bool:
    """Starts the fleet beside the arm; returns False where the settings leave nothing for it to do."""
    run, plan = context.settings, context.settings.real_rl
    collecting = plan.twin_actors if batch(plan).online.get("twin") else 0
    if not collecting + plan.scan.actors:
        return False
    settings = FleetSettings(
        world=world,
        replay=context.services.replay(),
        weights=context.services.weights(),
        guide=guide,
        run_dir=context.folder.absolute(),
        stage=METRICS,
        actors=collecting + plan.scan.actors,
        scanning=plan.scan.actors,
        twins_per_actor=run.twin_rl.twins_per_actor,
        groups=run.twin_rl.groups,
        explore=exploration(tasks.get(run.task), run.twin_rl.explore),
    )
    context.start(CHILD, "actors.sim", "fleet", settings=settings, expendable=True)
    return True
