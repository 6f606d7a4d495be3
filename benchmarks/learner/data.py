"""Random batches and demonstrations in the shapes of real ones: time and memory do not depend on what is in them."""

import numpy as np
import torch
from torch import Tensor

from learner.rl import UpdateSettings
from learner.sft import Demonstrations, TrainSettings
from policy.model import Policy
from policy.settings import PolicySettings
from protos.episode import Episode
from protos.schema import ACTION_DIM, GRIPPER, PROPRIO_DIM, Configuration, Observation, Outcome, Source

EPISODE_STEPS = 25


def make_batch(policy: PolicySettings, update: UpdateSettings, rows: int) -> dict[str, Tensor]:
    """The columns of a replay batch, half of it to be imitated."""
    make = torch.Generator().manual_seed(rows)

    def normal(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=make)

    octo = policy.octo
    proprio = (octo.window, PROPRIO_DIM) if policy.proprio_encoder == "mlp" else (PROPRIO_DIM,)
    batch = {
        "proprio": normal(*proprio),
        "next_proprio": normal(*proprio),
        "action": normal(ACTION_DIM).clamp(-1.0, 1.0),
        "reward": (torch.rand(rows, generator=make) < 0.05).float(),
        "discount": torch.full((rows,), 0.97**3),
        "mc_return": torch.rand(rows, generator=make),
        "imitate": (torch.arange(rows) % 2).float(),
        "weight": torch.ones(rows),
    }
    if update.needs_readouts:
        batch |= {"embedding": normal(octo.dim), "next_embedding": normal(octo.dim)}
    if update.needs_images:
        for name, px in (("side", octo.side_px), ("wrist", octo.wrist_px)):
            for column in (name, f"next_{name}"):
                shape = (rows, octo.window, px, px, 3)
                batch[column] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=make)
        batch["pad"] = torch.zeros(rows, octo.window, dtype=torch.bool)
        batch["language"] = torch.randn(1, octo.language_tokens, octo.language_dim, generator=make)
    return batch


def make_demonstrations(policy: Policy, settings: TrainSettings, episodes: int) -> Demonstrations:
    """Demonstrations of `EPISODE_STEPS` steps each."""
    rng = np.random.default_rng(0)
    return Demonstrations.of([_episode(policy.settings, rng) for _ in range(episodes)], policy, settings)


def _episode(policy: PolicySettings, rng: np.random.Generator) -> Episode:
    rows = EPISODE_STEPS + 1
    side, wrist = (
        rng.integers(0, 256, (rows, px, px, 3), np.uint8) for px in (policy.octo.side_px, policy.octo.wrist_px)
    )
    proprio = rng.normal(size=(rows, PROPRIO_DIM)).astype(np.float32)
    proprio[:, GRIPPER] = rng.random(rows)
    return Episode(
        name="random",
        instruction="Put the cube on the disc.",
        configuration=Configuration(
            region="A", poses={name: (*rng.normal(size=3).tolist(), 0.0) for name in ("cube", "target")}
        ),
        observation=Observation(side=side, wrist=wrist, proprio=proprio),
        action=rng.uniform(-1, 1, (EPISODE_STEPS, ACTION_DIM)).astype(np.float32),
        reward=np.zeros(EPISODE_STEPS, np.float32),
        human=np.ones(EPISODE_STEPS, bool),
        outcome=Outcome.SUCCESS,
        source=Source.REAL,
    )
