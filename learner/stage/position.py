"""How far a stage had read the replay, in its checkpoint, and the way back there.

    reader.position() ─┬─ record ─► manifest.json, "replay"
                       └─ arrays ─► tensors, replay.*

It is taken between two updates, with the networks, so that the next batch is drawn from what it names.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from learner.rl.updater import under
from learner.settings import ResumeSettings
from learner.stage.checkpoint import Checkpoint
from protos.status import StatusFile
from services.replay import Patience, Position, ReplayReader

_OWNER = "replay"


def position_record(position: Position | None) -> dict[str, Any]:
    """What of a position goes to a checkpoint's manifest; nothing where nothing was read."""
    return {} if position is None else position.manifest()


def position_tensors(position: Position | None) -> dict[str, Tensor]:
    """What of a position goes to a checkpoint's tensors."""
    arrays = {} if position is None else position.arrays
    return {f"{_OWNER}.{name}": torch.from_numpy(array) for name, array in arrays.items()}


def position_in(content: Checkpoint) -> Position | None:
    """The position in a checkpoint. Raises CorruptData when it makes no sense."""
    if not content.replay:
        return None
    arrays = under(content.tensors, _OWNER)
    return Position.parse(content.replay, {name: tensor.numpy() for name, tensor in arrays.items()})


def trained(content: Checkpoint) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint without those of the position."""
    return {name: tensor for name, tensor in content.tensors.items() if not name.startswith(f"{_OWNER}.")}


def restore_position(reader: ReplayReader, settings: ResumeSettings, stop: Callable[[], bool]) -> None:
    """Lets a reader read again what it had at the checkpoint, and nothing newer; waits for shards that do not answer.

    Raises Unreachable when one stays away.
    """
    status = StatusFile()

    def waiting(text: str) -> None:
        status.write(doing="going on from the checkpoint", waiting_for=text)

    status.write(doing="going on from the checkpoint")
    reader.restore(Patience(timeout_s=settings.timeout_s, partial=settings.partial, stop=stop, waiting=waiting))
