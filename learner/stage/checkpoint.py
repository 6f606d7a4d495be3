"""Checkpoints of a running stage, from which it goes on exactly. Safetensors and JSON, no pickle.

    folder/manifest.json     what kind of stage, its settings, counters, weight version, replay position; sha256 of
    folder/tensors-….safetensors    policy with its normalisation, critics, targets, optimizers, counters of updates

Written by `policy.checkpoint`: a reader of the folder sees the old pair or the new one, and damage is noticed. Random
numbers need no state: they depend on the seed and on counters (`learner.stage.streams`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from policy import checkpoint
from protos.errors import CorruptData, InputError

FORMAT = 2
"""Counts up when older folders cannot be read any more."""
Kind = Literal["sft", "rl"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a stage needs to go on."""

    kind: Kind
    tensors: Mapping[str, Tensor]
    """As `Updater.tensors` or the trainer gives them; further owners by prefix."""
    progress: Mapping[str, Any]
    """The stage's counters."""
    settings: Mapping[str, Any]
    """Of the stage, for people; a resumed stage is given its settings anew."""
    seed: int
    weights: Mapping[str, Any] = field(default_factory=dict)
    """`version`: the newest published; `weights_id`: of the policy in here, as it would be published."""
    replay: Mapping[str, Any] = field(default_factory=dict)
    """How far the replay had been read."""


def exists(path: Path) -> bool:
    """Whether the folder holds a checkpoint."""
    return checkpoint.exists(path)


def save(path: Path, content: Checkpoint) -> None:
    """Replaces the checkpoint in the folder, in one step."""
    manifest = {
        "format": FORMAT,
        "kind": content.kind,
        "seed": content.seed,
        "progress": dict(content.progress),
        "weights": dict(content.weights),
        "replay": dict(content.replay),
        "settings": dict(content.settings),
    }
    checkpoint.save(path, content.tensors, manifest)


def load(path: Path, kind: Kind) -> Checkpoint:
    """The checkpoint of a stage of this kind.

    Raises InputError where there is none or one of another kind, an older format or another stage's folder; CorruptData
    where it is damaged.
    """
    tensors, manifest = checkpoint.load(path)
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{path}: written in format {manifest.get('format', 1)}, this version reads format {FORMAT}: the random "
            "streams of older stages cannot be continued exactly; start the stage again, from its saved policy"
        )
    if manifest.get("kind") != kind:
        raise InputError(f"{path}: a checkpoint of {manifest.get('kind')!r}, not of {kind!r}")
    try:
        return Checkpoint(
            kind=kind,
            tensors=tensors,
            progress=manifest["progress"],
            settings=manifest["settings"],
            seed=manifest["seed"],
            weights=manifest["weights"],
            replay=manifest["replay"],
        )
    except KeyError as error:
        raise CorruptData(f"{path}: the manifest has no {error}") from error
