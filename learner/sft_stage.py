"""Supervised fine-tuning as a process runs it.

replay, dataset folders ─► episodes ─► SftTrainer ─► DIR/policy, DIR/checkpoint, DIR/metrics.jsonl
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from learner import checkpoint, device
from learner.checkpoint import Checkpoint
from learner.datasets import Dataset, open_dataset
from learner.position import position_in, position_record, position_tensors
from learner.settings import SftSettings, described
from learner.sft import Demonstration, Metrics, SftTrainer, prepare
from learner.sources import Stop, check_cameras, read_episodes
from learner.tracking import Tracking, Watch
from learner.updater import load_optimizer, optimizer_tensors, under
from policy.checkpoint import load_policy, save_policy
from policy.model import Policy
from protos.errors import CorruptData
from protos.settings import to_json
from protos.status import StatusFile
from services.replay import Position

log = logging.getLogger(__name__)


def run_sft(settings: SftSettings, out: Path, *, resume: bool, stop: Stop, watch: Watch | None = None) -> bool:
    """Fine-tunes a policy on the episodes selected and those of dataset folders; True when all steps are done.

    `watch` is called with every line of metrics.
    """
    torch.set_num_threads(settings.threads)
    saved = out / "checkpoint"
    going_on = checkpoint.load(saved, "sft") if resume and checkpoint.exists(saved) else None
    policy = _initial_policy(settings).to(device.choose(settings.device))
    datasets = [open_dataset(folder, settings.schema) for folder in settings.data]
    resumed = None if going_on is None else position_in(going_on)
    episodes, position = _episodes(settings, datasets, resumed, stop)
    if stop():
        return False
    trainer = SftTrainer(policy, prepare(policy, episodes, settings.train), settings.train)
    if going_on is not None:
        _restore(trainer, going_on, saved)
    save = partial(_save, trainer, settings, position, saved)
    log.info("fine-tuning on %d episodes, %d steps, from step %d", len(episodes), settings.train.steps, trainer.step)
    with Tracking(settings, out, stage=out.name, watch=watch) as tracking:
        try:
            finished = _train(trainer, settings, tracking, save, stop)
        finally:
            save()
    scales = {dataset.name: to_json(dataset.action_scale) for dataset in datasets}
    save_policy(out / "policy", policy, step=trainer.step, total=settings.train.steps, action_scales=scales)
    log.info("saved %s and %s at step %d of %d", out / "policy", saved, trainer.step, settings.train.steps)
    return finished


def _episodes(
    settings: SftSettings, datasets: Sequence[Dataset], resume: Position | None, stop: Stop
) -> tuple[Sequence[Demonstration], Position | None]:
    """Those of the replay, oldest first, then those of the folders in their own order; and the replay's position."""
    found: list[Demonstration] = []
    position: Position | None = None
    if settings.replay is not None:
        episodes, position = read_episodes(settings, stop, resume)
        found += episodes
    status = StatusFile()
    for dataset in datasets:
        for episode in dataset:
            if stop():
                return found, position
            found.append(episode)
            status.write(doing=f"reading {dataset.name}", episodes=len(found))
    return found, position


def _train(
    trainer: SftTrainer, settings: SftSettings, tracking: Tracking, save: Callable[[], None], stop: Stop
) -> bool:
    """Steps until done or told to stop, with a line of metrics at both ends and every `log_every` steps."""
    total, recent, status = settings.train.steps, list[Metrics](), StatusFile()
    tracking.write(step=trainer.step, total=total)
    while trainer.step < total and not stop():
        recent.append(trainer.advance())
        status.write(doing="fine-tuning", steps=trainer.step)
        if trainer.step % settings.log_every == 0 or trainer.step == total:
            means = {name: float(np.mean([m[name] for m in recent])) for name in recent[0]}
            tracking.write(step=trainer.step, total=total, **means)
            recent.clear()
        if trainer.step % settings.checkpoint_every == 0:
            save()
    return trainer.step >= total


def _save(trainer: SftTrainer, settings: SftSettings, position: Position | None, saved: Path) -> None:
    tensors = {f"policy.{name}": tensor for name, tensor in trainer.policy.state_dict().items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(trainer.optimizer).items()}
    content = Checkpoint(
        kind="sft",
        tensors=tensors | position_tensors(position),
        progress={"step": trainer.step, "skipped": trainer.guard.skipped},
        settings=described(settings),
        seed=settings.train.seed,
        weights={"weights_id": trainer.policy.weights_id()},
        replay=position_record(position),
    )
    checkpoint.save(saved, content)


def _restore(trainer: SftTrainer, content: Checkpoint, saved: Path) -> None:
    try:
        trainer.policy.load_state_dict(under(content.tensors, "policy"))
        load_optimizer(trainer.optimizer, under(content.tensors, "optimizer"))
        trainer.step, trainer.guard.skipped = content.progress["step"], content.progress["skipped"]
    except (KeyError, RuntimeError, ValueError) as error:
        raise CorruptData(f"{saved}: this checkpoint is of another network: {error}") from error


def _initial_policy(settings: SftSettings) -> Policy:
    if settings.initial_policy is not None:
        policy = load_policy(settings.initial_policy)
    else:
        torch.manual_seed(settings.train.seed)
        policy = Policy(settings.policy)
    check_cameras(policy, settings.schema)
    return policy
