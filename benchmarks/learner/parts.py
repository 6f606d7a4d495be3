"""This module times the parts of an update, called one by one in turns.

noise      random numbers of every row, row weights
features   augmentation, images to readouts where the backbone trains, proprioception; for both observations
critic     TD target and error, forward and backward
actor      cloning and the action's value, forward and backward; where the backbone trains, its gradient too
steps      clipping, the NaN check, both optimizers, the target critics
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks.learner.data import make_batch
from benchmarks.measure import table
from benchmarks.policy.timing import Call, in_turns
from learner.augment import augment, torch_stream
from learner.rl import Phase, RlAgent, complete

COLUMNS = ("update", "sum of the parts [ms]", "noise [%]", "features [%]", "critic [%]", "actor [%]", "steps [%]")
_WITH_FEATURES, _WITH_CRITIC = "features, critic", "features, critic, actor"


def shares(agents: Mapping[str, tuple[RlAgent, int]], *, turns: int, turn_s: float) -> str:
    """A table with one row for each agent and its number of rows."""
    return table(COLUMNS, [_row(name, *agent, turns=turns, turn_s=turn_s) for name, agent in agents.items()])


def _row(name: str, agent: RlAgent, rows: int, *, turns: int, turn_s: float) -> tuple[str, ...]:
    found = in_turns(_calls(agent, rows), turns=turns, turn_s=turn_s, device=torch.device("cpu"))
    spent = {part: timings.cpu_ms for part, timings in found.items()}
    parts = {
        "noise": spent["noise"],
        "features": spent["features"],
        "critic": spent[_WITH_FEATURES] - spent["features"],
        "actor": spent[_WITH_CRITIC] - spent[_WITH_FEATURES],
        "steps": spent["steps"],
    }
    whole = sum(parts.values())
    return (name, f"{whole:,.2f}", *(f"{100 * part / whole:.0f}" for part in parts.values()))


def _calls(agent: RlAgent, rows: int) -> dict[str, Call]:
    """Calls the parts in this order: `steps` takes the gradients that the call before it leaves."""
    policy, settings = agent.policy.settings, agent.settings
    batch = make_batch(policy, settings, rows)

    def fill() -> dict[str, Tensor]:
        return complete(batch, policy, settings, Phase(), torch_stream(0, "noise", 0))

    filled = fill()
    loss = agent.gradients(filled, Phase()).total
    return {
        "noise": fill,
        "features": _features(agent, filled),
        _WITH_FEATURES: lambda: agent.gradients(filled, Phase(actor=False)),
        _WITH_CRITIC: lambda: agent.gradients(filled, Phase()),
        "steps": lambda: agent.step(loss, Phase()),
    }


def _features(agent: RlAgent, batch: Mapping[str, Tensor]) -> Callable[[], object]:
    """Both observations to features, without gradients."""
    policy, settings = agent.policy, agent.settings

    def one(prefix: str) -> Tensor:
        if not settings.needs_images:
            return policy.features(batch[f"{prefix}embedding"], batch[f"{prefix}proprio"])
        side, wrist = (
            augment(batch[f"{prefix}{name}"], f"{prefix}{name}", batch, settings.augment) for name in ("side", "wrist")
        )
        return policy.features(policy.embed(side, wrist, batch["language"]), batch[f"{prefix}proprio"])

    return torch.no_grad()(lambda: (one(""), one("next_")))
