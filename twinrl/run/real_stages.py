"""The stages on the arm: the station's of a lab file, or a stand-in, a simulated UR controller of the run's own.

    station, or stand-in process ◄── RTDE, dashboard, gripper, cameras, hands ──► actors.real process

Where the arm comes from is the only difference (`_arm`). At a station a person is asked at the run's terminal, and has
all the time that a person needs.
"""

import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from actors.lab import LAB_PORT
from actors.real import (
    ArmSettings,
    ConsoleLab,
    DemonstratePlan,
    EvaluatePlan,
    PendantSettings,
    RealSettings,
    Station,
    TrainPlan,
)
from actors.sim import TwinWorld
from actors.simulated_ur import StandinSettings
from learner.rl import ActorSettings, LoopSettings, UpdateSettings
from learner.stage import RlSettings
from protos.errors import TwinRLError
from protos.files import read_lines, write_durably
from protos.schema import CONTROL_HZ
from protos.status import read_status
from services.telemetry import read_metrics
from twin import labs, tasks
from twin.scene import Scene
from twinrl.run import beside_arm
from twinrl.run.context import RL_TIMEOUT_S, RunContext, WorldSeed
from twinrl.run.progress import Note
from twinrl.run.progress import Stage as View
from twinrl.run.settings import RealRlPlan, RunSettings

RTDE_PORT = 30004
ROBOT_HOST_DRAWS = 100
EVALUATION_TIMEOUT_S = 3600.0
"""Deadline of an evaluation on the arm, which moves in real time."""
CONTROLLER_TIMEOUT_S = 60.0
"""Deadline of a simulated controller to listen."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A start is what real RL goes on from."""

    policy: Path
    critics: Path | None = None
    """Checkpoint folder of an earlier RL stage; None: new critics."""
    success: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Successes and rollouts in the twin, by cell, for the guide's first S_target."""
    version: int = -1
    """Last weight version that was published before."""

    @classmethod
    def of_twin_rl(cls, context: RunContext) -> "Start":
        """Returns what twin RL left behind."""
        folder = context.folder / "twin_rl"
        lines = read_metrics(folder / "metrics.jsonl")
        return cls(
            policy=folder / "policy",
            critics=folder / "checkpoint",
            success=success_by_cell(context.folder / "eval" / "twin_rl_twin.jsonl"),
            version=int(lines[-1].get("version", -1)) if lines else -1,
        )


def success_by_cell(evaluation: Path) -> dict[int, tuple[int, int]]:
    """Returns successes and rollouts by cell of an evaluation."""
    found: dict[int, tuple[int, int]] = {}
    for entry in read_lines(evaluation):
        successes, rollouts = found.get(entry["cell"], (0, 0))
        found[entry["cell"]] = (successes + entry["success"], rollouts + 1)
    return found


def start_demonstrations(context: RunContext) -> None:
    """The operator records region A, as the child "demonstrations-arm"; what was recorded before counts."""
    plan, out = context.settings.demonstrations, context.folder / "demonstrations.jsonl"
    settings = _arm(
        context,
        "demonstrations",
        seed=WorldSeed.ARM_DEMONSTRATIONS,
        demonstrate=DemonstratePlan(episodes=plan.real_a, region="A", disturbance=plan.disturbance, out=out),
    )
    _drive(context, "demonstrations-arm", "demonstrate", settings)


def evaluate_before(context: RunContext, view: View) -> float:
    """The policy of twin RL on the stand-in, as it is."""
    return evaluate(context, view, policy="twin_rl", name="before")


def evaluate_after(context: RunContext, view: View) -> float:
    """The policy after RL on the arm, from the same starts as before."""
    return evaluate(context, view, policy="real_rl", name="after")


def real_rl(context: RunContext, view: View, *, start: Start, twin: TwinWorld) -> float:
    """Practice on the arm: the guide sends it to S_target, the operator takes over when the policy is in trouble.

    Twins of `twin` collect and scan beside it.
    """
    settings, plan = context.settings, context.settings.real_rl
    replay, batch = context.services.replay(), beside_arm.batch(plan)
    learner = RlSettings(
        replay=replay,
        policy=start.policy,
        critics=start.critics,
        stage="real_rl",
        weights=context.services.weights(),
        wire_dtype="f32",
        schema=settings.schema,
        batch=batch,
        loop=replace(
            pace(plan),
            data_timeout_s=context.timeout_s(LoopSettings.data_timeout_s),
            beside={"twin": plan.twin_steps} if "twin" in batch.online else {},
        ),
        update=update(plan),
        seed_twin_episodes=plan.seed_twin_episodes,
        seed=settings.seed,
    )
    out = str(context.folder / "real_rl")
    context.start("real_rl", "learner", "rl", settings=learner, arguments=("--out", out, "--resume"))
    guide = beside_arm.start_guide(context, start.success, version=start.version)
    twins = beside_arm.start_twins(context, twin, guide)
    arm = _arm(
        context,
        "real-rl",
        seed=WorldSeed.ARM_RL,
        weights=context.services.weights(),
        guide=guide,
        **({"operator": "none"} if plan.operator == "none" else {}),
        train=TrainPlan(
            out=context.folder / "real_rl" / "episodes.jsonl", env_steps=plan.env_steps, explore=plan.explore
        ),
    )
    _drive(context, "arm", "train", arm)
    timeout_s = context.timeout_s(RL_TIMEOUT_S)
    context.supervisor.wait("real_rl", timeout_s=timeout_s, poll=lambda: _follow(context, view))
    context.supervisor.stop("arm", *([beside_arm.CHILD] if twins else []))
    stop_standins(context, "real-rl")
    view.update(plan.env_steps)
    return plan.env_steps


def pace(plan: RealRlPlan) -> LoopSettings:
    """Returns how updates follow the arm's transitions."""
    return LoopSettings(
        env_steps=plan.env_steps,
        utd=plan.utd,
        start_after=100,
        slack=400,
        warmup_updates=plan.warmup_updates,
        publish_every=plan.publish_every,
    )


def update(plan: RealRlPlan) -> UpdateSettings:
    """Returns the update of real RL: mostly imitation of what succeeds, by a backbone that stays."""
    return UpdateSettings(actor=ActorSettings(weights_start=(1.0, plan.eta), weights_end=(1.0, plan.eta)))


def stop_standins(context: RunContext, *names: str) -> None:
    """Ends the simulated controllers of a stage; a station has none."""
    if context.station is None:
        context.supervisor.stop(*[f"standin-{name}" for name in names])


def evaluate(context: RunContext, view: View, *, policy: str, name: str) -> float:
    """A policy of the run's folder on the arm, into eval/<name>_standin.jsonl; returns the number of episodes."""
    regions = tuple(tasks.get(context.settings.task).space.regions)
    shares: dict[str, tuple[str, ...]] = {"all": regions}
    if context.settings.arms > 1 and context.station is None:
        shares = {region: (region,) for region in regions}
    parts = []
    for share, own in shares.items():
        parts.append(context.folder / "eval" / f"{name}_{share}.part.jsonl")
        rollouts = context.settings.evaluation.rollouts
        plan = EvaluatePlan(out=parts[-1], resume=True, rollouts=rollouts, regions=own)
        settings = _arm(
            context, share, seed=WorldSeed.EVALUATE_ON_ARM, policy=context.folder / policy / "policy", evaluate=plan
        )
        _drive(context, f"evaluate-{name}-{share}", "evaluate", settings)
    names = [f"evaluate-{name}-{share}" for share in shares]
    timeout_s = context.timeout_s(EVALUATION_TIMEOUT_S)
    context.supervisor.wait(*names, timeout_s=timeout_s, poll=lambda: view.update(_lines(parts)))
    stop_standins(context, *shares)
    whole = context.folder / "eval" / f"{name}_standin.jsonl"
    write_durably(whole, [part.read_bytes() for part in parts])
    for part in parts:
        part.unlink()
    view.update(context.settings.episodes_per_evaluation)
    return context.settings.episodes_per_evaluation


def showing(run: RunSettings, station: Station) -> str:
    """Says what demonstrations need of a person at a station; empty where a script shows the task."""
    times = run.demonstrations.real_a
    shown = f"show the task {times} times in region A with the {station.person.device}"
    return _at_table(shown if station.operator == "person" else "", station)


def trying(run: RunSettings, station: Station) -> str:
    """Says what an evaluation needs of a person at a station; empty where nobody is asked."""
    return _at_table(f"the policy tries {run.episodes_per_evaluation} starts" if _is_asked(station) else "", station)


def helping(run: RunSettings, station: Station) -> str:
    """Says what practice needs of a person at a station; empty where nobody is asked and nobody helps."""
    helps = station.operator == "person" and run.real_rl.operator != "none"
    practice = f"the policy practises {run.real_rl.env_steps} steps"
    takes_over = f"; take over with the {station.person.device} when it is in trouble" if helps else ""
    return _at_table(practice + takes_over if helps or _is_asked(station) else "", station)


def _at_table(needed: str, station: Station) -> str:
    return f"{needed}; place the objects and judge when you are asked" if _is_asked(station) else needed


def _is_asked(station: Station) -> bool:
    return isinstance(station.lab, ConsoleLab)


def _drive(context: RunContext, child: str, mode: str, settings: RealSettings) -> None:
    """Starts the process that drives an arm; one at a station asks its operator at the run's terminal."""
    context.start(child, "actors.real", mode, settings=settings, terminal=context.station is not None)


def _arm(context: RunContext, name: str, *, seed: WorldSeed, **mode: object) -> RealSettings:
    """Returns the settings of the robot's computer that drives the station's arm, or a stand-in that is started."""
    run = context.settings
    station = context.station or _standin(context, name, seed)
    own: dict[str, object] = vars(station) | mode
    return RealSettings(
        name=f"arm-{name}",
        task=run.task,
        scene=run.name,
        schema=run.schema,
        seed=context.world_seed(seed),
        armed=context.is_armed or context.station is None,  # a stand-in is a simulation
        replay=context.services.replay(),
        spool=context.folder / "spool" / f"arm-{name}",
        **own,  # type: ignore[arg-type]
    )


def _standin(context: RunContext, name: str, seed: WorldSeed) -> Station:
    """Starts a stand-in in the run's scene and lab."""
    run = context.settings
    host = _free_robot_host()
    standin = StandinSettings(
        scene=(context.folder / "scene").absolute(),
        task=run.task,
        lab=labs.get(run.lab, tasks.get(run.task)),
        schema=run.schema,
        seed=context.world_seed(seed),
        host=host,
    )
    context.start(f"standin-{name}", "actors.simulated_ur", settings=standin)
    context.supervisor.wait_listening(f"standin-{name}", f"{host}:{LAB_PORT}", timeout_s=CONTROLLER_TIMEOUT_S)
    pendant = PendantSettings.of(Scene.load(standin.scene).robot)
    # the stand-in follows the step of a whole control period well, a real arm needs it smoother
    return Station(arm=ArmSettings(host=host, stream_hz=CONTROL_HZ, pendant=pendant))


def _follow(context: RunContext, view: View) -> None:
    lines = read_metrics(context.folder / "real_rl" / "metrics.jsonl")
    episodes = read_lines(context.folder / "real_rl" / "episodes.jsonl")
    interventions = sum(episode["interventions"] for episode in episodes)
    notes: dict[str, Note] = {"episodes": len(episodes), "interventions": interventions}
    for child, names in (("guide", ("targets",)), (beside_arm.CHILD, ("transitions_per_s", "scans_per_min"))):
        status = read_status(context.supervisor.logs / f"{child}.status.json")
        notes |= {name: status.rates[name] for name in names if status is not None and name in status.rates}
    if lines:
        view.update(lines[-1].get("step", 0), **notes)


def _lines(paths: Sequence[Path]) -> int:
    return sum(len(read_lines(path)) for path in paths)


def _free_robot_host() -> str:
    """A loopback address on which no controller listens: the ports of a UR controller are fixed.

    It is drawn, so that runs which look for one at the same moment find different ones.
    """
    for _ in range(ROBOT_HOST_DRAWS):
        host = f"127.0.{secrets.randbelow(256)}.{41 + secrets.randbelow(159)}"
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, RTDE_PORT))
            except OSError:
                continue
            return host
    raise TwinRLError(
        f"port {RTDE_PORT} cannot be had on {host}, nor on {ROBOT_HOST_DRAWS - 1} other addresses of this computer; "
        "end other simulated controllers, or allow 127.0.0.0/16"
    )
