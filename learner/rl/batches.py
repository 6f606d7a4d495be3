"""A batch of the replay as the columns that an update reads, and the random numbers that go with its rows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from learner.rl import augment, losses
from learner.rl.update_settings import UpdateSettings
from policy.settings import PolicySettings
from protos.errors import InputError

COLUMNS = (
    "proprio",  # (n, 25) as on the wire, or (n, W, 25) with the newest last
    "action",  # (n, 7) as executed
    "reward",  # (n,) discounted sum over up to k steps
    "discount",  # (n,) γᵏ, 0 after a terminal step
    "next_proprio",  # the same k steps later
    "mc_return",  # (n,) discounted return to the end of the episode
    "imitate",  # (n,) 1 where behaviour cloning may copy the action
    "weight",  # (n,) importance weight of the TD error, 1 unless drawn by priority
)
"""What every update reads of a replay batch."""
READOUTS = ("embedding", "next_embedding")  # (n, D) of the frozen backbone
PICTURES = ("side", "wrist", "next_side", "next_wrist", "pad")  # (n, W, P, P, 3) u8; (n, W) true where W is padding
_LANGUAGE = "language"  # (1, L, 768), of all rows


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What this update trains and how far the stage is."""

    actor: bool = True
    """False: the critics alone."""
    offline: bool = False
    """On demonstrations alone: Cal-QL joins the critics' loss, β and η are the offline ones."""
    progress: float = 0.0
    """0 to 1 over the online stage."""


WARMUP = Phase(actor=False, offline=True)


def turn(phase: Phase, settings: UpdateSettings, update: int) -> Phase:
    """The phase of update number `update`: whether the actor learns offline, and in which of the updates."""
    wanted = phase.actor or (phase.offline and settings.actor_offline)
    return replace(phase, actor=wanted and (update + 1) % settings.actor_every == 0)


def columns(batch: object) -> dict[str, Tensor]:
    """The columns that a replay batch has, as tensors: numbers float32, pictures bytes.

    `batch` holds numpy arrays as attributes of these names; readouts and pictures may be None or missing.
    """
    found = {name: torch.from_numpy(np.asarray(getattr(batch, name), np.float32)) for name in COLUMNS}
    for name in (*READOUTS, *PICTURES):
        array = getattr(batch, name, None)
        if array is not None:
            found[name] = torch.from_numpy(np.asarray(array))
    return found


def draw_noise(
    n: int, policy: PolicySettings, settings: UpdateSettings, phase: Phase, generator: Generator
) -> dict[str, Tensor]:
    """Every random number of an update on n rows, as columns that travel with the rows.

    `level` (n,) of the cloning loss, counted from σ_max; standard normal `bc_noise`, `actor_noise`, `target_noise`
    (n, A), `calql_noise` and `calql_next_noise` (n, m, A); `calql_uniform` (n, m, A) in [-1, 1]; and the columns of
    `learner.rl.augment`.
    """
    a, m = policy.action_dim, settings.calql_actions

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=generator)

    drawn = {"target_noise": normal(a)}
    if phase.actor:
        drawn["level"] = torch.randint(0, policy.head.levels - 1, (n,), generator=generator)
        drawn |= {"bc_noise": normal(a), "actor_noise": normal(a)}
    if has_cal_ql(settings, phase):
        drawn |= {"calql_noise": normal(m, a), "calql_next_noise": normal(m, a)}
        drawn["calql_uniform"] = 2.0 * torch.rand(n, m, a, generator=generator) - 1.0
    if settings.needs_pictures:
        for prefix in ("", "next_"):
            drawn |= augment.draw(n, settings.augment, generator, prefix)
    return drawn


def has_cal_ql(settings: UpdateSettings, phase: Phase) -> bool:
    """Whether Cal-QL is part of the critics' loss."""
    return phase.offline and settings.calql_alpha > 0.0


def complete(
    batch: Mapping[str, Tensor], policy: PolicySettings, settings: UpdateSettings, phase: Phase, generator: Generator
) -> dict[str, Tensor]:
    """A batch with its noise, and with `imitate` scaled to a mean of 1 over all its rows.

    Done once per update, before the rows go to accumulation or to several learners.
    """
    noise = draw_noise(len(batch["reward"]), policy, settings, phase, generator)
    return {**batch, **noise, "imitate": losses.row_weights(batch["imitate"])}


def split(batch: Mapping[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
    """Equal parts of a batch, in order. The language, one for all rows, is in each."""
    n = len(batch["reward"])
    if n % parts:
        raise InputError(f"a batch of {n} rows cannot be split into {parts} equal parts")
    size = n // parts
    return [
        {
            name: column if name == _LANGUAGE and len(column) == 1 else column[i : i + size]
            for name, column in batch.items()
        }
        for i in range(0, n, size)
    ]
