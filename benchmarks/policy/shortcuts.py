"""This module measures what shortens a forward pass or lengthens it: pairs that take turns, on one observation of one
CPU thread.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import spread, table
from benchmarks.policy.timing import Timings, in_turns
from policy.acting import BatchActor
from policy.heads import DiffusionHead
from policy.model import Policy
from policy.octo.model import Octo
from policy.octo.transformer import Transformer
from policy.settings import DiffusionSettings, PolicySettings
from protos.schema import PROPRIO_DIM, Observation

CPU = torch.device("cpu")
COLUMNS = ("what", "beside", "what [ms]", "beside [ms]", "ratio", "largest difference", "goal")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two ways, and what is wanted of them. Where both give the same tensor, how far they differ is shown."""

    what: str
    beside: str
    same: bool = False
    goal: str = ""


PAIRS = (
    Pair(what="consistency acting", beside="forward", goal="at most 1.1 ×"),
    Pair(what="BatchActor.act", beside="forward"),
    Pair(what="diffusion head, 20 steps", beside="consistency head, 1 step"),
    Pair(what="forward", beside="last layer in full", same=True, goal="equal to 1e-5"),
    Pair(what="forward", beside="mask made each time", same=True),
    Pair(what="kernels channels-last", beside="forward", same=True),
    Pair(what="stems channels-first", beside="forward", same=True),
)


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One observation with its instruction, as tensors."""

    side: Tensor
    wrist: Tensor
    language: Tensor
    proprio: Tensor

    @classmethod
    def random(cls, settings: PolicySettings) -> "Sight":
        octo = settings.octo
        side, wrist = (
            torch.randint(0, 256, (1, octo.window, px, px, 3), dtype=torch.uint8)
            for px in (octo.side_px, octo.wrist_px)
        )
        language = torch.randn(1, octo.language_tokens, octo.language_dim)
        return cls(side=side, wrist=wrist, language=language, proprio=torch.randn(1, octo.window, PROPRIO_DIM))


def shortcuts(settings: PolicySettings, *, turns: int, turn_s: float) -> str:
    """A table of `PAIRS` at window 1."""
    settings = replace(settings, octo=replace(settings.octo, window=1))
    ways = _ways(settings)
    with torch.inference_mode():
        outputs = {name: way() for name, way in ways.items()}
        found = in_turns(ways, turns=turns, turn_s=turn_s, device=CPU)
    octo = settings.octo
    head = f"Window 1, batch 1, images of {octo.side_px}² and {octo.wrist_px}², {octo.layers} layers of {octo.dim}."
    return f"{head}\n\n{table(COLUMNS, [_row(pair, found, outputs) for pair in PAIRS])}"


def _row(pair: Pair, found: dict[str, Timings], outputs: dict[str, object]) -> tuple[str, ...]:
    mine, its = found[pair.what], found[pair.beside]
    ratio = spread(mine.times(its), 2)
    difference = "–"
    if pair.same:
        a, b = (cast("Tensor", outputs[name]) for name in (pair.what, pair.beside))
        difference = f"{float((a - b).abs().max()):.1e}"
    return (pair.what, pair.beside, mine.cells()[0], its.cells()[0], ratio, difference, pair.goal or "–")


def _ways(settings: PolicySettings) -> dict[str, Callable[[], object]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy, sight = Policy(settings).eval(), Sight.random(settings)
        diffusion = DiffusionHead(settings.feature_dim, DiffusionSettings()).eval()
    octo = policy.octo
    features = policy.features(torch.randn(1, settings.octo.dim), sight.proprio).detach()
    actor, observation = BatchActor(policy, "Put the cube on the disc."), _observation(sight)

    def forward(network: Octo = octo) -> Tensor:
        return network(sight.side, sight.wrist, sight.language)

    def consistency_acting() -> Tensor:
        return policy.sample(policy.features(forward(), sight.proprio))

    def mask_anew() -> Tensor:
        octo._rules.clear()  # the cache is what is measured
        return forward()

    full, last, first = (_twin_of(octo) for _ in range(3))
    full.transformer = _FullLastLayer(full.transformer)
    last.to(memory_format=torch.channels_last)
    for layer in first.tokenizers.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return {
        "forward": forward,
        "consistency acting": consistency_acting,
        "BatchActor.act": lambda: actor.act(observation, explore=0.1),
        "consistency head, 1 step": lambda: policy.sample(features),
        "diffusion head, 20 steps": lambda: diffusion.sample(features),
        "last layer in full": lambda: forward(full),
        "mask made each time": mask_anew,
        "kernels channels-last": lambda: forward(last),
        "stems channels-first": lambda: forward(first),
    }


def _twin_of(octo: Octo) -> Octo:
    twin = Octo(octo.settings).eval()
    twin.load_state_dict(octo.state_dict())
    return twin


class _FullLastLayer(nn.Module):
    """A transformer whose last layer computes every token, of which the last few are then taken."""

    def __init__(self, inside: Transformer) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor, mask: Tensor, rows: int) -> Tensor:
        return cast("Tensor", self.inside(x, mask, x.shape[1]))[:, -rows:]


def _observation(sight: Sight) -> Observation:
    """Returns the arrays of one observation, as an actor is handed them."""
    side, wrist, proprio = (np.ascontiguousarray(t[:, -1].numpy()) for t in (sight.side, sight.wrist, sight.proprio))
    return Observation(side=side, wrist=wrist, proprio=proprio)
