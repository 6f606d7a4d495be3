"""This module keeps checkpoints, from which a stage goes on exactly. Safetensors and JSON, no pickle.

    folder/manifest.json     kind of stage, its settings, counters, weight version, replay position; sha256 of
    folder/tensors-….safetensors    policy with its normalisation, critics, targets, optimizers, counters of updates

    reader.position() ─┬─ record ─► manifest.json, "replay"
                       └─ arrays ─► tensors, replay.*

`policy.checkpoint` writes it: a reader of the folder sees the old pair or the new one, and damage is noticed. Random
numbers need no state: they depend on the seed and on counters (`learner.augment`). The reader's position is taken
between two updates, with the networks, so that the next batch is drawn from what it names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from learner.datasets import ActionScale
from learner.optimization import under
from learner.stage.settings import ResumeSettings
from policy import checkpoint
from protos.errors import CorruptData, InputError
from protos.settings import from_json, to_json
from protos.status import StatusFile
from services.replay import Position, ReplayReader, RestoreSettings

FORMAT = 2
"""Number of the format; it counts up when older folders cannot be read any more."""
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
    """The reader's position in the replay."""


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


_OWNER = "replay"


def position_record(position: Position | None) -> dict[str, Any]:
    """Returns the part of a position for a checkpoint's manifest; nothing where nothing was read."""
    return {} if position is None else position.manifest()


def position_tensors(position: Position | None) -> dict[str, Tensor]:
    """Returns the part of a position for a checkpoint's tensors."""
    arrays = {} if position is None else position.arrays
    return {f"{_OWNER}.{name}": torch.from_numpy(array) for name, array in arrays.items()}


def position_in(content: Checkpoint) -> Position | None:
    """Returns the position in a checkpoint. Raises CorruptData when it makes no sense."""
    if not content.replay:
        return None
    arrays = under(content.tensors, _OWNER)
    return Position.parse(content.replay, {name: tensor.numpy() for name, tensor in arrays.items()})


def trained(content: Checkpoint) -> Mapping[str, Tensor]:
    """Returns the tensors of a checkpoint without those of the position."""
    return {name: tensor for name, tensor in content.tensors.items() if not name.startswith(f"{_OWNER}.")}


def restore_position(reader: ReplayReader, settings: ResumeSettings, stop: Callable[[], bool]) -> None:
    """Lets a reader read what it had at the checkpoint, and nothing newer; waits for shards that do not answer.

    Raises Unreachable when one stays away.
    """
    status = StatusFile()

    def waiting(text: str) -> None:
        status.write(doing="going on from the checkpoint", waiting_for=text)

    status.write(doing="going on from the checkpoint")
    reader.restore(RestoreSettings(timeout_s=settings.timeout_s, partial=settings.partial, stop=stop, waiting=waiting))


def stored_scale(folder: Path) -> ActionScale | None:
    """Returns what an action of 1 means to the policy in a folder; None where that is not known."""
    found = checkpoint.load_manifest(folder).get(_SCALE)
    return None if found is None else from_json(ActionScale, found, _SCALE)


def scale_entry(scale: ActionScale | None) -> dict[str, object]:
    """Returns the scale as an entry of a policy's manifest, for `save_policy`."""
    return {_SCALE: None if scale is None else to_json(scale)}
