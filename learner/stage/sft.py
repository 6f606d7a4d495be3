"""This module runs supervised fine-tuning as a stage: from data and an initial policy to a policy folder.

replay, dataset folders ─► episodes ─► SftTrainer ─► DIR/policy, DIR/checkpoint, DIR/metrics.jsonl
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from learner.datasets import ActionScale, Dataset, counted, named_outcomes, open_datasets
from learner.optimization import load_optimizer, optimizer_tensors, under
from learner.sft import Metrics, SftTrainer, prepare
from learner.stage import checkpoint
from learner.stage.checkpoint import Checkpoint, scale_entry, stored_scale
from learner.stage.data import EpisodeNames, Stop, check_cameras, selected_episodes
from learner.stage.settings import SftSettings, choose_device, described
from learner.stage.tracking import Tracking, Watch
from policy.checkpoint import load_policy, policy_settings, save_policy
from policy.language import check_language
from policy.model import PARTS, Policy, consistency_settings, on_backbone
from policy.settings import PolicySettings
from protos.episode import Episode
from protos.errors import CorruptData, InputError
from protos.schema import CONTROL_HZ
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
    policy = starting_policy(settings).to(choose_device(settings.device))
    check_cameras(policy, settings.schema)
    datasets, scale = open_datasets(
        settings.data, settings.schema, action_scale=starting_scale(settings), hz=CONTROL_HZ
    )
    resumed = None if going_on is None or not going_on.replay else EpisodeNames.parse(going_on.replay)
    episodes, names = gather(settings, datasets, resumed, stop)
    if stop():
        return False
    trainer = SftTrainer(policy, prepare(policy, episodes, settings.train), settings.train)
    if going_on is not None:
        _restore(trainer, going_on, saved)
    save = partial(_save, trainer, settings, names, saved)
    log.info("fine-tuning on %d episodes, %d steps, from step %d", len(episodes), settings.train.steps, trainer.step)
    with Tracking(settings.tracking, out, stage=out.name, config=described(settings), watch=watch) as tracking:
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
    """Makes steps until done or told to stop, with a line of metrics at both ends and every `log_every` steps."""
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
        weights={"parts": {part: trainer.policy.sha256(part) for part in PARTS}},
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


def starting_settings(settings: SftSettings) -> PolicySettings:
    """Returns the settings of the policy that is fine-tuned.

    Raises InputError when it cannot be told its instruction on this machine.
    """
    folder = settings.initial_policy
    found = settings.policy if folder is None else policy_settings(folder)
    if settings.head == "consistency":
        found = consistency_settings(found)
    if settings.language == "stand-in":
        found = replace(found, language_folder="")
    try:
        check_language(found)
    except InputError as error:
        raise InputError(
            f"{error}. An imported policy has its language encoder when it is imported with a tokenizer (twinrl "
            "import-octo --tokenizer FOLDER); language='stand-in' (--language stand-in) tells instructions apart "
            "without it, but a pretrained backbone does not know its words"
        ) from error
    return found


def starting_policy(settings: SftSettings) -> Policy:
    """Returns the policy before the first step; the same for the same seed."""
    wanted = starting_settings(settings)
    if settings.initial_policy is None:
        torch.manual_seed(settings.train.seed)
        return Policy(wanted)
    policy = load_policy(settings.initial_policy)
    if settings.head == "consistency":
        return on_backbone(policy, wanted, seed=settings.train.seed)
    policy.settings = wanted  # another language folder at most
    return policy


def starting_scale(settings: SftSettings) -> ActionScale | None:
    """Returns what an action of 1 shall mean: by the settings, or to the trained head; None leaves it to the data."""
    if settings.action_scale is not None or settings.initial_policy is None or settings.head != "keep":
        return settings.action_scale
    return stored_scale(settings.initial_policy)


def gather(
    settings: SftSettings, datasets: Sequence[Dataset], resume: EpisodeNames | None, stop: Stop
) -> tuple[Sequence[Episode], EpisodeNames | None]:
    """Reads the replay's episodes, oldest first, then the folders' in their own order; and the names of the replay's.

    Raises InputError when their observations take more than `memory_bytes`.
    """
    found: list[Episode] = []
    names: EpisodeNames | None = None
    if settings.replay is not None:
        episodes, names = selected_episodes(settings, stop, resume)
        found += episodes
    held = _within(settings, sum(map(_size, found)), f"the replay's {len(found)} episodes")
    status, wanted = StatusFile(), named_outcomes(settings.outcomes)
    for dataset in datasets:
        others, before = Counter[str](), len(found)
        for count, episode in enumerate(dataset, start=1):
            if stop():
                return found, names
            if episode.outcome not in wanted:
                others[episode.outcome.value] += 1
                continue
            found.append(episode)
            read = f"{count} of the {len(dataset)} episodes of {dataset.name}"
            held = _within(settings, held + _size(episode), read)
            status.write(doing=f"reading {dataset.name}", episodes=len(found))
        _tell_left_out(dataset.name, len(found) - before, counted(others))
    return found, names


def _tell_left_out(name: str, taken: int, others: str) -> None:
    """Says how many episodes of a dataset were left out for their outcome. Raises InputError where all were."""
    if others and not taken:
        raise InputError(f"{name}: all of its episodes have other outcomes: {others}; choose them (--outcomes all)")
    if others:
        log.warning("%s: learning from %d episodes; left out for their outcome: %s", name, taken, others)


def _within(settings: SftSettings, held: int, read: str) -> int:
    """Returns `held` bytes, when so many are allowed."""
    if held > settings.memory_bytes:
        raise InputError(
            f"memory_bytes={settings.memory_bytes}: with {read} there are {held:,} bytes of observations; raise it "
            "where there is memory for all of them, or learn from fewer episodes or smaller images"
        )
    return held


def _size(episode: Episode) -> int:
    seen = episode.observation
    return seen.side.nbytes + seen.wrist.nbytes + seen.proprio.nbytes
