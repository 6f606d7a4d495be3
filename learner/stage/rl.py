"""This module runs one RL stage: from a policy folder to its step budget.

    policy folder ─► updater: plain torch or RLlib ─┐
    replay ─► reader (embeds what has no readouts) ───┴► OnlineLoop ─► weights service, DIR/policy, DIR/checkpoint

One learner at a time leads a run: it takes the run's lease first (`services.replay.Lease`).

A stage that is killed goes on from its checkpoint: networks, optimizers and counters from its tensors, random numbers
from the seed and the counters, and the reader reads up to where it had been.
"""

import logging
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from learner.rl import OnlineLoop, Outlets, Progress, RlAgent, Updater
from learner.stage import checkpoint
from learner.stage.checkpoint import (
    Checkpoint,
    agent_tensors,
    position_in,
    position_tensors,
    with_critics,
)
from learner.stage.data import (
    Stop,
    check_cameras,
    instruction,
    restore_position,
    seed_demonstrations,
    take_lease,
    transition_reader,
    wait_for_totals,
    wait_until_caught_up,
)
from learner.stage.publication import Publication
from learner.stage.settings import RlSettings, choose_device, described
from learner.stage.tracking import Tracking, Watch
from policy.checkpoint import load_policy, save_policy
from policy.language import encode_instruction
from policy.model import PARTS, Policy
from protos.errors import Unreachable
from services.net import ray_environment
from services.replay import Lease, ReplayReader

log = logging.getLogger(__name__)
_LAST_VERSION_TIMEOUT_S = 2.0


def run_rl(settings: RlSettings, out: Path, *, resume: bool, stop: Stop, watch: Watch | None = None) -> bool:
    """Runs one RL stage, from a policy folder to its step budget; True when the budget is used up.

    `watch` is called with every line of metrics. Raises InputError, which names it, when another learner leads the run,
    and LeaseLost when another one has taken the lead meanwhile: from then on this one writes nothing.
    """
    torch.set_num_threads(settings.threads)
    with Lease(settings.replay, name=settings.stage, lifetime_s=settings.lease_s) as lease:
        if not take_lease(lease, settings, stop):
            return False

        def told() -> bool:
            lease.check()
            return stop()

        return _run_led(settings, out, lease, resume=resume, stop=told, watch=watch)


def _run_led(settings: RlSettings, out: Path, lease: Lease, *, resume: bool, stop: Stop, watch: Watch | None) -> bool:
    """Runs the stage under its lease."""
    saved = out / "checkpoint"
    going_on = checkpoint.load(saved, "rl") if resume and checkpoint.exists(saved) else None
    if going_on is None:
        received = wait_for_totals(settings.replay, settings.replay_timeout_s, stop)
        if stop():
            return False
        progress = Progress(base={buffer: received[buffer] for buffer in settings.batch.online})
        if settings.seed_twin_episodes:
            seed_demonstrations(settings, stop)
    else:
        progress = Progress(**going_on.progress)
        log.info("going on from update %d", progress.updates)
    policy = load_policy(settings.policy).to(choose_device(settings.device))
    check_cameras(policy, settings.schema)
    updater = _updater(policy, settings)
    try:
        if going_on is not None:
            updater.load_tensors(agent_tensors(going_on))
        elif settings.critics is not None:
            updater.load_tensors(with_critics(updater.tensors(), checkpoint.load(settings.critics, "rl").tensors))
            progress.normalized = True
        position = None if going_on is None else position_in(going_on)
        with closing(transition_reader(policy, settings, position, lease=lambda: lease.number)) as reader:
            restore_position(reader, settings.resume, stop)
            if stop():
                return False
            reader.start()
            wait_until_caught_up(reader, stop)
            stage = _Stage(settings, lease, policy, updater, reader, progress, out)
            return stage.run(stop, fresh=going_on is None, watch=watch)
    finally:
        updater.close()


class _Stage:
    """Connects the online loop with checkpoint, metrics and weights service."""

    def __init__(
        self,
        settings: RlSettings,
        lease: Lease,
        policy: Policy,
        updater: Updater,
        reader: ReplayReader,
        progress: Progress,
        out: Path,
    ) -> None:
        self.settings, self.policy, self.updater, self.reader, self.out = settings, policy, updater, reader, out
        self.lease, self.progress = lease, progress
        self.publication = Publication(settings, policy.settings, updater, lease=lease.number)

    def run(self, stop: Stop, *, fresh: bool, watch: Watch | None) -> bool:
        """Runs the loop; saves checkpoint and policy whatever ends it."""
        settings = self.settings
        try:
            language = _language(self.policy, settings, stop)
            with Tracking(
                settings.tracking, self.out, stage=settings.stage, config=described(settings), watch=watch
            ) as tracking:
                outlets = Outlets(publish=self.publication, checkpoint=self.save, record=tracking.write)
                loop = OnlineLoop(
                    self.updater,
                    self.reader,
                    settings.loop,
                    settings.batch,
                    outlets,
                    progress=self.progress,
                    seed=settings.seed,
                    language=language,
                )
                loop.write_metrics()
                if fresh:
                    self.save()  # so that a stage killed early still knows what had been received before it
                try:
                    finished = loop.run(stop)
                finally:
                    self.save()
                loop.finish()
            self.policy.load_parts(self.updater.parts(PARTS))
            counters = {"updates": self.progress.updates, "version": self.progress.version}
            save_policy(self.out / "policy", self.policy, **counters, **self.publication.scale)
            log.info("saved %s and its checkpoint after %d updates", self.out / "policy", self.progress.updates)
            _await_last_version(self.publication)
            return finished
        finally:
            self.publication.close()

    def save(self) -> None:
        """Writes the checkpoint. Raises LeaseLost when the folder may be another learner's by now."""
        self._confirm()
        position = self.reader.position()
        content = Checkpoint(
            kind="rl",
            tensors=self.updater.tensors() | position_tensors(position),
            progress=asdict(self.progress),
            settings=described(self.settings),
            seed=self.settings.seed,
            weights={"version": self.progress.version, "parts": self.publication.sha256()},
            replay=position.manifest(),
        )
        checkpoint.save(self.out / "checkpoint", content)

    def _confirm(self) -> None:
        try:
            self.lease.confirm()
        except Unreachable as error:  # nobody can take it there meanwhile
            log.warning("the lease is not renewed: %s", error)


def _updater(policy: Policy, settings: RlSettings) -> Updater:
    engine = settings.engine
    if engine.kind == "torch":
        return RlAgent(policy, settings.update, seed=settings.seed)
    ray_environment()
    from learner.rl.rllib import RllibUpdater

    return RllibUpdater(policy, settings.update, seed=settings.seed, learners=engine.learners, threads=settings.threads)


def _language(policy: Policy, settings: RlSettings, stop: Stop) -> Tensor | None:
    """Returns the instruction's tokens (1, L, 768) for batches with images; None where readouts suffice."""
    if not settings.update.needs_images:
        return None
    text = settings.instruction or instruction(settings, stop)
    return torch.from_numpy(encode_instruction(text, policy.settings))[None]


def _await_last_version(publication: Publication) -> None:
    """Waits a moment for the last version; the stage does not fail for it, its policy is on disk."""
    try:
        publication.flush(_LAST_VERSION_TIMEOUT_S)
    except Unreachable as error:
        log.warning("the last weights did not leave: %s", error)
