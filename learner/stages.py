"""The stages as processes run them: replay in, weights out, metrics and checkpoints on disk.

    run_sft   replay ─► episodes ─► SftTrainer ─► DIR/policy
    run_rl    DIR of a policy ─► freeze ─► reader (embeds what has no readouts) ─► OnlineLoop ─► weights, DIR/policy

Both write `DIR/metrics.jsonl`; both leave `DIR/checkpoint` when told to stop, and go on from it with `resume`.
"""

import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from learner import checkpoint
from learner.online import OnlineLoop, Outlets, Progress, Updater
from learner.seeding import seed_demonstrations
from learner.settings import RlSettings, SftSettings
from learner.sft import Metrics, SftTrainer, prepare
from learner.sources import Stop, read_episodes, transition_reader, wait_until_caught_up
from learner.update import RlAgent
from policy.checkpoint import load_policy, save_policy
from policy.model import Policy
from protos.errors import InputError, Unreachable
from protos.schema import Schema
from protos.settings import to_json
from protos.status import StatusFile
from services.replay import ReplayReader, totals
from services.telemetry import MetricsLog
from services.weights import WeightPublisher

log = logging.getLogger(__name__)
_LAST_VERSION_TIMEOUT_S = 2.0


def run_sft(settings: SftSettings, out: Path, *, resume: bool, stop: Stop) -> bool:
    """Fine-tunes a policy on selected episodes; True when all steps are done."""
    torch.set_num_threads(settings.threads)
    episodes = read_episodes(settings, stop)
    if stop():
        return False
    policy = _initial_policy(settings)
    trainer = SftTrainer(policy, prepare(policy, episodes, settings.train), settings.train)
    parts = {"policy": policy}, {"optimizer": trainer.optimizer}
    saved = out / "checkpoint"
    if resume and checkpoint.exists(saved):
        state = checkpoint.restore(saved, modules=parts[0], optimizers=parts[1], generator=trainer.generator)
        trainer.step = state["step"]
    log.info("fine-tuning on %d episodes, %d steps, from step %d", len(episodes), settings.train.steps, trainer.step)
    with MetricsLog(out / "metrics.jsonl", stage=out.name) as metrics:
        finished = _train(trainer, settings, metrics, stop)
    state = {"step": trainer.step}
    checkpoint.save(saved, modules=parts[0], optimizers=parts[1], generator=trainer.generator, state=state)
    save_policy(out / "policy", policy, step=trainer.step, total=settings.train.steps)
    log.info("saved %s and %s at step %d of %d", out / "policy", saved, trainer.step, settings.train.steps)
    return finished


def _train(trainer: SftTrainer, settings: SftSettings, metrics: MetricsLog, stop: Stop) -> bool:
    """Steps until done or told to stop, with a line of metrics at both ends and every `log_every` steps."""
    total, recent, status = settings.train.steps, list[Metrics](), StatusFile()
    metrics.write(step=trainer.step, total=total)
    while trainer.step < total and not stop():
        recent.append(trainer.advance())
        status.write(doing="fine-tuning", steps=trainer.step)
        if trainer.step % settings.log_every == 0 or trainer.step == total:
            means = {name: float(np.mean([m[name] for m in recent])) for name in recent[0]}
            metrics.write(step=trainer.step, total=total, **means)
            recent.clear()
    return trainer.step >= total


def run_rl(settings: RlSettings, out: Path, *, resume: bool, stop: Stop) -> bool:
    """One RL stage, from a policy folder to its step budget; True when the budget is used up."""
    torch.set_num_threads(settings.threads)
    resuming = resume and checkpoint.exists(out / "checkpoint")
    replay = settings.replay
    before = totals(replay)
    progress = Progress(base={buffer: before[buffer] for buffer in settings.loop.online})
    if settings.seed_twin_episodes and not resuming:
        seed_demonstrations(replay, settings, stop)
    policy = load_policy(settings.policy)
    _check_cameras(policy, settings.schema)
    agent, updater = _learner(policy, settings)
    if settings.critics is not None:
        checkpoint.restore_modules(settings.critics, {"critic": agent.critic, "target": agent.target})
        progress.normalized = True
    reader = transition_reader(agent.policy, settings)
    try:
        reader.start()
        wait_until_caught_up(reader, stop)
        return _run_loop(agent, updater, reader, settings, out, progress=progress, resuming=resuming, stop=stop)
    finally:
        reader.close()


def _run_loop(
    agent: RlAgent,
    updater: Updater,
    reader: ReplayReader,
    settings: RlSettings,
    out: Path,
    *,
    progress: Progress,
    resuming: bool,
    stop: Stop,
) -> bool:
    """The online loop with its outlets; saves checkpoint and policy whatever ends it."""
    rng = np.random.default_rng(settings.seed)
    modules = {"policy": agent.policy, "critic": agent.critic, "target": agent.target}
    optimizers = {"critic_optimizer": agent.critic_optimizer, "actor_optimizer": agent.actor_optimizer}
    saved = out / "checkpoint"

    def save() -> None:
        checkpoint.save(
            saved, modules=modules, optimizers=optimizers, generator=agent.generator, rng=rng, state=asdict(progress)
        )

    if resuming:
        state = checkpoint.restore(saved, modules=modules, optimizers=optimizers, generator=agent.generator, rng=rng)
        progress = Progress(**state)
        log.info("going on from update %d", progress.updates)
    publisher = _publisher(settings)
    try:
        with MetricsLog(out / "metrics.jsonl", stage=settings.stage) as metrics:
            publish = _Publication(publisher, agent.policy, settings.schema)
            outlets = Outlets(publish=publish, checkpoint=save, record=metrics.write)
            loop = OnlineLoop(agent, updater, reader, settings.loop, outlets, progress=progress, rng=rng)
            loop.write_metrics()
            try:
                finished = loop.run(stop)
            finally:
                save()
            loop.finish()
        save_policy(out / "policy", agent.policy, updates=progress.updates, version=progress.version)
        log.info("saved %s and %s after %d updates", out / "policy", saved, progress.updates)
        if publisher is not None:
            _see_through(publisher)
        return finished
    finally:
        if publisher is not None:
            publisher.close()


def _learner(policy: Policy, settings: RlSettings) -> tuple[RlAgent, Updater]:
    if settings.engine == "torch":
        agent = RlAgent(policy, settings.update, seed=settings.seed)
        return agent, agent
    from learner.rllib import RllibUpdater

    updater = RllibUpdater(policy, settings.update, seed=settings.seed)
    return updater.agent, updater


def _publisher(settings: RlSettings) -> WeightPublisher | None:
    if settings.weights is None:
        return None
    return WeightPublisher(settings.weights, wire_dtype=settings.wire_dtype, credentials=settings.credentials)


class _Publication:
    """Publishes a policy whose backbone is frozen: only the first version of this process carries it."""

    def __init__(self, publisher: WeightPublisher | None, policy: Policy, schema: Schema) -> None:
        self._publisher, self._policy, self._schema = publisher, policy, schema
        self._unchanged: tuple[str, ...] = ()

    def __call__(self) -> int:
        """The version's number; -1 without a service to publish to."""
        if self._publisher is None:
            return -1
        settings = {"policy": to_json(self._policy.settings)}
        names = ("head",) if self._unchanged else ("backbone", "head")
        version = self._publisher.publish(
            self._policy.parts(names), settings=settings, unchanged=self._unchanged, schema_hash=self._schema.hash
        )
        self._unchanged = ("backbone",)
        return version


def _see_through(publisher: WeightPublisher) -> None:
    """Waits a moment for the last version; the stage does not fail for it, its policy is on disk."""
    try:
        publisher.wait(_LAST_VERSION_TIMEOUT_S)
    except Unreachable as error:
        log.warning("the last weights did not leave: %s", error)


def _initial_policy(settings: SftSettings) -> Policy:
    if settings.initial_policy is not None:
        policy = load_policy(settings.initial_policy)
    else:
        torch.manual_seed(settings.train.seed)
        policy = Policy(settings.policy)
    _check_cameras(policy, settings.schema)
    return policy


def _check_cameras(policy: Policy, schema: Schema) -> None:
    octo = policy.settings.octo
    if (octo.side_px, octo.wrist_px) != (schema.side_px, schema.wrist_px):
        raise InputError(
            f"the policy takes pictures of {octo.side_px} and {octo.wrist_px} pixels, the schema says "
            f"{schema.side_px} and {schema.wrist_px}"
        )
