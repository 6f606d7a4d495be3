"""This module keeps checkpoints, from which a stage goes on exactly. Safetensors and JSON, no pickle.

    folder/manifest.json     kind of stage, its settings, counters, weight version, replay position; sha256 of
    folder/tensors-….safetensors    policy with its normalisation, critics, targets, optimizers, counters of updates

    reader.position() ─┬─ manifest ─► manifest.json, "replay"
                       └─ arrays ───► tensors, replay.*

`policy.checkpoint` writes it: a reader of the folder sees the old pair or the new one, and damage is noticed. Random
numbers need no state: they depend on the seed and on counters (`learner.augment`). The reader's position is taken
between two updates, with the networks, so that the next batch is drawn from what it names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from learner.datasets import ActionScale
from learner.optimization import under
from policy import checkpoint
from protos.errors import CorruptData, InputError
from protos.settings import from_json, to_json
from services.replay import Position

FORMAT = 3
"""Number of the format; it counts up when older folders cannot be read any more. TwinRL 0.1 wrote 1 and 2."""
_OWNER = "replay"
_SCALE = "action_scale"
"""Key in the manifest of a policy's folder."""
Kind = Literal["sft", "rl"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint holds everything that a stage needs to go on."""

    kind: Kind
    tensors: Mapping[str, Tensor]
    """Tensors of `Updater.tensors` or of the trainer; further owners by prefix."""
    progress: Mapping[str, Any]
    """The stage's counters."""
    settings: Mapping[str, Any]
    """Settings of the stage, for people; a resumed stage is given its settings anew."""
    seed: int
    weights: Mapping[str, Any] = field(default_factory=dict)
    """`version`: the newest published; `parts`: the sha256 of each part of the policy in here, as it would arrive."""
    replay: Mapping[str, Any] = field(default_factory=dict)
    """The reader's position in the replay, or the names of the episodes that SFT learns from."""


def exists(path: Path) -> bool:
    """Tells whether the folder holds a checkpoint."""
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
    """Returns the checkpoint of a stage of this kind.

    Raises InputError where there is none or one of another kind, an older format or another stage's folder; CorruptData
    where it is damaged.
    """
    tensors, manifest = checkpoint.load(path)
    if (found := manifest.get("format", 1)) != FORMAT:
        raise InputError(
            f"{path}: written in format {found}, this version reads format {FORMAT}: go on with "
            f"{'TwinRL 0.1' if found in (1, 2) else 'a later TwinRL'}, or start the stage again, from its saved policy"
        )
    if manifest.get("kind") != kind:
        raise InputError(f"{path}: a checkpoint of {manifest.get('kind')!r}, not of {kind!r}")
    names = {field.name for field in fields(Checkpoint)} - {"tensors"}
    try:
        entries = {name: manifest[name] for name in names}
        return replace(from_json(Checkpoint, entries | {"tensors": {}}, "manifest"), tensors=tensors)
    except (KeyError, InputError) as error:
        raise CorruptData(f"{path}: the manifest is damaged ({error})") from error


def position_tensors(position: Position) -> dict[str, Tensor]:
    """Returns the arrays of a position as tensors of a checkpoint; the rest is its record, `replay`."""
    return {f"{_OWNER}.{name}": torch.from_numpy(array) for name, array in position.arrays.items()}


def position_in(content: Checkpoint) -> Position:
    """Returns the position in a checkpoint. Raises CorruptData when it makes no sense."""
    arrays = under(content.tensors, _OWNER)
    return Position.parse(content.replay, {name: tensor.numpy() for name, tensor in arrays.items()})


def agent_tensors(content: Checkpoint) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint without those of the position."""
    return {name: tensor for name, tensor in content.tensors.items() if not name.startswith(f"{_OWNER}.")}


def with_critics(tensors: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns `tensors` with the critics and target critics of another agent."""
    prefixes = ("critic.", "target.")
    critics = {name: tensor for name, tensor in other.items() if name.startswith(prefixes)}
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)} | critics


def stored_scale(folder: Path) -> ActionScale | None:
    """Returns what an action of 1 means to the policy in a folder; None where that is not known."""
    found = checkpoint.load_manifest(folder).get(_SCALE)
    return None if found is None else from_json(ActionScale, found, _SCALE)


def scale_entry(scale: ActionScale | None) -> dict[str, object]:
    """Returns the scale as an entry of a policy's manifest, for `save_policy`."""
    return {_SCALE: None if scale is None else to_json(scale)}
