"""This module runs the three modes of the arm: demonstrate, evaluate, train. All use the same episode loop.

mode         starts from                policy             operator            segments go to
demonstrate  one region, at random      none               in every step       "demo"; failures to "real" if wanted
evaluate     a list                     no exploration     nobody              nowhere
train        the guide service          explores           takes over          "real", takeovers to "human" too

The arm is connected last: whatever takes long or fails does so before there is an arm to look after.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np

from actors.guides import ListGuide, RandomGuide, ReportedGuide, result_line
from actors.human import Person
from actors.human.devices import open_device
from actors.interfaces import EpisodeResult, Guide, Operator, Policy, Sink
from actors.loop import SLOW_S, EpisodeLoop, LoopStats
from actors.policies import NoPolicy, StoredPolicy, WeightsPolicy
from actors.real.recovery import Recovery
from actors.real.robot import Robot
from actors.real.settings import ConsoleLab, DemonstratePlan, EvaluatePlan, RealSettings
from actors.real.table.terminal import Terminal
from actors.recorder import EpisodeRecorder, EpisodeTags
from actors.sinks import ArmSink, EpisodeFilter, NoSink, succeeded
from protos.episode import Segment
from protos.errors import ArmStopped, InputError, TwinRLError
from protos.files import JsonLines, read_json, read_lines
from protos.schema import Buffer, Configuration, Outcome, Source
from protos.settings import from_json
from protos.space import ConfigurationSpace
from protos.status import StatusFile
from services.replay import ReplayWriter
from twin import tasks
from twin.tasks import Task

log = logging.getLogger(__name__)
T = TypeVar("T")


def demonstrate(settings: RealSettings) -> None:
    """Records successful demonstrations until there are as many as planned."""
    plan = settings.demonstrate or DemonstratePlan()
    if settings.operator == "none":
        raise InputError('operator "none": somebody has to demonstrate; choose "person", or "scripted" on the stand-in')
    with ExitStack() as stack:
        task = tasks.get(settings.task)
        person = _person(settings, stack, always=True)
        attempts, before = _earlier(plan.out)
        writer = _writer(settings, stack)

        kept = Counter[Buffer]()

        def write(segments: list[Segment]) -> None:
            buffer: Buffer = "demo" if succeeded(segments) else "real"
            kept[buffer] += 1
            for segment in segments:
                writer.add(segment, (buffer,))

        def accept(segments: list[Segment]) -> bool:
            failed = segments[-1].outcome is Outcome.FAILURE
            return not enough() if succeeded(segments) else plan.failures and failed

        def enough() -> bool:
            return before + kept["demo"] >= plan.episodes

        sink = EpisodeFilter(write, accept)
        guide: Guide = RandomGuide(task.space, settings.seed + attempts, region=plan.region, enough=enough)
        if plan.out is not None:
            lines = stack.enter_context(JsonLines(plan.out))
            guide = ReportedGuide(guide, lines, partial(_demonstration_line, settings, task))
        recorder = EpisodeRecorder(_tags(settings, task, writer.incarnation))
        disturbance = plan.disturbance if person is None else 0.0
        robot = stack.enter_context(Robot(settings, disturbance=disturbance, person=person))
        loop = _loop(robot, NoPolicy(), guide, recorder, sink, robot.operator(always=True))
        _run(loop, robot, lambda: f"{before + kept['demo']} of {plan.episodes} demonstrations")
        _flush(writer)


def _demonstration_line(settings: RealSettings, task: Task, result: EpisodeResult) -> dict[str, Any]:
    return result_line(result, task.space.manipulated) | {"operator": settings.operator, "t": time.time()}


def _earlier(out: Path | None) -> tuple[int, int]:
    """Returns how many attempts were recorded before, and how many of them succeeded."""
    attempts = read_lines(out) if out is not None else []
    return len(attempts), sum(bool(attempt["success"]) for attempt in attempts)


def evaluate(settings: RealSettings) -> None:
    """Runs the policy from every configuration of the plan."""
    plan = _required(settings.evaluate, "evaluate")
    with ExitStack() as stack:
        task = tasks.get(settings.task)
        starts = _starts(plan, task.space, settings.seed)
        starts = starts[len(read_lines(plan.out)) if plan.resume else 0 :]
        policy = stack.enter_context(closing(_policy(settings, task, explore=0.0)))
        recorder = EpisodeRecorder(_tags(settings, task, "evaluation"))
        robot = stack.enter_context(Robot(settings))
        lines = stack.enter_context(JsonLines(plan.out, anew=not plan.resume))
        describe = lambda result: result_line(result, task.space.manipulated) | {"operator": "none"}  # noqa: E731
        guide = ReportedGuide(ListGuide(starts), lines, describe)
        loop = _loop(robot, policy, guide, recorder, NoSink())
        _run(loop, robot, lambda: f"{loop.stats.episodes} of {len(starts)} episodes")


def train(settings: RealSettings) -> None:
    """Practises until the plan's number of steps; ends with the episode in which it is reached."""
    from services.guide import GuideClient, SteadyGuide

    plan = _required(settings.train, "train")
    if not settings.guide:
        raise InputError("guide is empty: name the guide service as host:port")
    with ExitStack() as stack:
        task = tasks.get(settings.task)
        writer = _writer(settings, stack)
        policy = stack.enter_context(closing(_policy(settings, task, explore=plan.explore)))
        client = stack.enter_context(closing(GuideClient(settings.guide, credentials=settings.credentials)))
        recorder = EpisodeRecorder(_tags(settings, task, writer.incarnation))
        robot = stack.enter_context(Robot(settings, person=_person(settings, stack, always=False)))
        lines = stack.enter_context(JsonLines(plan.out))
        status = StatusFile()

        def describe(result: EpisodeResult) -> dict[str, Any]:
            line = result_line(result, task.space.manipulated) | {"operator": settings.operator}
            return line | {"t": time.time(), "robot_s": robot.worked_s, "total_steps": loop.stats.steps}

        def enough() -> bool:
            began = time.monotonic()

            def waiting() -> bool:
                if (why := writer.waiting_for()) and time.monotonic() - began > SLOW_S:
                    robot.environment.hold(f"it waits for {why}")
                    status.write(doing="between two episodes", waiting_for=why)
                return False

            writer.wait_for_allowance("real", waiting)
            return loop.stats.steps >= plan.env_steps

        steady = SteadyGuide(client, task.space, seed=settings.seed)
        guide = ReportedGuide(steady, lines, describe, enough)
        loop = _loop(robot, policy, guide, recorder, ArmSink(writer), robot.operator(always=False))
        _run(loop, robot, lambda: f"episode {loop.stats.episodes + 1}, step {loop.stats.steps}")
        _flush(writer)


def _person(settings: RealSettings, stack: ExitStack, *, always: bool) -> Person | None:
    """Opens the device of a person who operates. Raises InputError with the remedy where it cannot be."""
    if settings.operator != "person":
        return None
    say = Terminal().say if isinstance(settings.lab, ConsoleLab) else log.info
    wanted = settings.person
    person = Person(partial(open_device, wanted.device, wanted.node), wanted, always=always, say=say)
    stack.callback(person.close)
    say(f"{person.device.name}\n{person.device.help}")
    return person


def _loop(
    robot: Robot,
    policy: Policy,
    guide: Guide,
    recorder: EpisodeRecorder,
    sink: Sink,
    operator: Operator | None = None,
) -> EpisodeLoop:
    """Returns the loop of an arm that holds while somebody is away, and waits where it is stopped."""
    environment, recovery = robot.environment, Recovery(robot)
    return EpisodeLoop(
        environment, policy, guide, recorder, sink, operator, held=environment.hold, stopped=recovery.mended
    )


def _run(loop: EpisodeLoop, robot: Robot, doing: Callable[[], str]) -> None:
    """Runs the loop to its end and logs the outcome, also when it is cut short."""
    status = StatusFile()

    def never() -> bool:
        waits_for, rates = loop.stats.waits_for, {"episodes": loop.stats.episodes, "successes": loop.stats.successes}
        who = f"; {robot.person.state}" if robot.person is not None else ""
        status.write(doing="between two episodes" if waits_for else doing() + who, waiting_for=waits_for, **rates)
        return False

    try:
        loop.run(never)
    except ArmStopped as stop:
        status.write(doing=f"stopped: {stop}")
        raise
    finally:
        robot.arm.try_to_hold("the loop has ended")
        log.info("%s; %s", _summary(loop.stats), robot.summary())


def _summary(stats: LoopStats) -> str:
    per_step = {name: f"{1e3 * seconds / max(stats.steps, 1):.1f}" for name, seconds in stats.seconds.items()}
    return (
        f"{stats.episodes} episodes, {stats.successes} successful, {stats.steps} steps, "
        f"{stats.interventions} interventions, {stats.stopped} stops of the arm; ms per step {per_step}"
    )


def _writer(settings: RealSettings, stack: ExitStack) -> ReplayWriter:
    if settings.replay is None:
        raise InputError("replay is missing: name the replay service's url")
    incarnation = uuid4().hex[:8]
    writer = ReplayWriter(
        settings.replay, settings.schema, actor=settings.name, incarnation=incarnation, spool=settings.spool
    )
    return stack.enter_context(closing(writer))


def _flush(writer: ReplayWriter) -> None:
    if unsent := writer.flush(10.0):
        log.warning("%d segments are not in the replay yet; they stay in the spool", unsent)
    if dropped := int(writer.stats()["dropped"]):  # said while it happened too, but only in the log
        raise TwinRLError(
            f"{dropped} segments of this session are lost: their spool had no room; make room and repeat it"
        )


def _policy(settings: RealSettings, task: Task, *, explore: float) -> WeightsPolicy | StoredPolicy:
    if settings.policy is not None:
        return StoredPolicy(settings.policy, task.instruction, explore=explore, seed=settings.seed)
    if settings.weights:
        return WeightsPolicy(
            settings.weights,
            task.instruction,
            explore=explore,
            seed=settings.seed,
            first_timeout_s=settings.first_weights_timeout_s,
            bound=settings.staleness,
            credentials=settings.credentials,
        )
    raise InputError("no policy: name the weights service (weights, host:port) or a folder of the learner (policy)")


def _tags(settings: RealSettings, task: Task, incarnation: str) -> EpisodeTags:
    return EpisodeTags(
        actor=settings.name,
        incarnation=incarnation,
        task=task.name,
        scene=settings.scene,
        instruction=task.instruction,
        source=Source.REAL,
    )


def _starts(plan: EvaluatePlan, space: ConfigurationSpace, seed: int) -> list[Configuration]:
    if plan.configurations is not None:
        entries = read_json(plan.configurations, what="list of configurations")
        name = plan.configurations.name
        if not isinstance(entries, list):
            raise InputError(f"{plan.configurations}: a JSON list of configurations is expected")
        return [from_json(Configuration, entry, f"{name}[{i}]") for i, entry in enumerate(entries)]
    rng = np.random.default_rng(seed)
    regions = plan.regions or tuple(space.regions)
    return [one for region in regions for one in space.spread(rng, region=region, rollouts=plan.rollouts)]


def _required(plan: T | None, name: str) -> T:
    if plan is None:
        raise InputError(f"settings have no {name!r} block: this mode needs one")
    return plan
