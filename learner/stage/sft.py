"""Supervised fine-tuning as a process runs it.

replay, dataset folders ─► episodes ─► SftTrainer ─► DIR/policy, DIR/checkpoint, DIR/metrics.jsonl
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from learner.datasets import open_datasets
from learner.rl.updater import load_optimizer, optimizer_tensors, under
from learner.settings import SftSettings, described
from learner.sft.gathering import gather
from learner.sft.starting import scale_entry, starting_policy, starting_scale
from learner.sft.trainer import Metrics, SftTrainer, prepare
from learner.stage import checkpoint, device
from learner.stage.checkpoint import Checkpoint
from learner.stage.position import EpisodeNames
from learner.stage.sources import Stop, check_cameras
from learner.stage.tracking import Tracking, Watch
from policy.checkpoint import save_policy
from protos.errors import CorruptData
from protos.settings import to_json
from protos.status import StatusFile

log = logging.getLogger(__name__)


def run_sft(settings: SftSettings, out: Path, *, resume: bool, stop: Stop, watch: Watch | None = None) -> bool:
    """Fine-tunes a policy on the episodes selected and those of dataset folders; True when all steps are done.

    `watch` is called with every line of metrics.
    """
    torch.set_num_threads(settings.threads)
    saved = out / "checkpoint"
    going_on = checkpoint.load(saved, "sft") if resume and checkpoint.exists(saved) else None
    policy = starting_policy(settings).to(device.choose(settings.device))
    check_cameras(policy, settings.schema)
    datasets, scale = open_datasets(settings.data, settings.schema, action_scale=starting_scale(settings))
    resumed = None if going_on is None or not going_on.replay else EpisodeNames.parse(going_on.replay)
    episodes, names = gather(settings, datasets, resumed, stop)
    if stop():
        return False
    trainer = SftTrainer(policy, prepare(policy, episodes, settings.train), settings.train)
    if going_on is not None:
        _restore(trainer, going_on, saved)
    save = partial(_save, trainer, settings, names, saved)
    log.info("fine-tuning on %d episodes, %d steps, from step %d", len(episodes), settings.train.steps, trainer.step)
    with Tracking(settings, out, stage=out.name, watch=watch) as tracking:
        try:
            finished = _train(trainer, settings, tracking, save, stop)
        finally:
            save()
    save_policy(out / "policy", policy, step=trainer.step, total=settings.train.steps, **scale_entry(scale))
    log.info("saved %s and %s at step %d of %d", out / "policy", saved, trainer.step, settings.train.steps)
    return finished


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


def _save(trainer: SftTrainer, settings: SftSettings, names: EpisodeNames | None, saved: Path) -> None:
    tensors = {f"policy.{name}": tensor for name, tensor in trainer.policy.state_dict().items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(trainer.optimizer).items()}
    content = Checkpoint(
        kind="sft",
        tensors=tensors,
        progress={"step": trainer.step, "skipped": trainer.guard.skipped},
        settings=described(settings),
        seed=settings.train.seed,
        weights={"weights_id": trainer.policy.weights_id()},
        replay={} if names is None else to_json(names),
    )
    checkpoint.save(saved, content)


def _restore(trainer: SftTrainer, content: Checkpoint, saved: Path) -> None:
    try:
        trainer.policy.load_state_dict(under(content.tensors, "policy"))
        load_optimizer(trainer.optimizer, under(content.tensors, "optimizer"))
        trainer.step, trainer.guard.skipped = content.progress["step"], content.progress["skipped"]
    except (KeyError, RuntimeError, ValueError) as error:
        raise CorruptData(f"{saved}: this checkpoint is of another network: {error}") from error
