"""Octo's discrete head: one token per number of the action, logits over bins.

No release uses it and no policy here does; it stands in the comparison because it exercises attention pooling with many
probes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from policy.heads.chunks import masked_mean
from policy.heads.pooling import MapPooling
from policy.octo.inputs import Tokens
from policy.octo.official_names import Params, pooling_rules, to_state
from policy.octo.parity.reference import Case
from policy.octo.parity.table import CLOSE, LOSS, Table

_EDGE = 1e-6


def check_discrete(table: Table, case: Case, name: str, params: Params, outputs: Mapping[str, Tokens]) -> None:
    """Logits, loss and the actions of the likeliest bins; bins are even over [0, 1]."""
    key, tokens = f"aux_heads/{name}/", outputs["readout_action"]
    theirs = case.get(f"{key}out")
    if theirs is None:
        return
    with torch.no_grad():
        logits = _logits(params, tokens, theirs.shape)
    table.compare(case.name, "other heads", name, logits, theirs, CLOSE)
    if (actions := case.get(f"{key}actions_argmax")) is not None:
        middle = (logits[:, -1].argmax(-1).float() + 0.5) / logits.shape[-1]
        table.compare(case.name, "other heads", f"{name} actions", middle, actions, CLOSE)
    targets, mask = case.tensor(f"{key}loss_actions"), case.tensor("head_action/loss/action_pad_mask")
    steps, loss = case.tensor("in/timestep_pad_mask"), case.get(f"{key}loss")
    if targets is None or mask is None or steps is None or loss is None:
        return
    bins = (targets.clamp(_EDGE, 1.0 - _EDGE) * logits.shape[-1]).long()
    error = functional.cross_entropy(logits.flatten(0, -2), bins.flatten(), reduction="none").view(bins.shape)
    ours = masked_mean(error.flatten(0, 1), (mask & steps[:, :, None, None]).flatten(0, 1))
    table.compare(case.name, "losses", name, ours, loss, LOSS)


def _logits(params: Params, tokens: Tokens, shape: tuple[int, ...]) -> Tensor:
    device, dim = tokens.tokens.device, tokens.tokens.shape[-1]
    pooling = MapPooling(dim, probes=params["map_head/probe"].shape[1])
    pooling.load_state_dict(to_state(params, pooling_rules("map_head/", ""), pooling.state_dict(), "map_head"))
    pooled = pooling.to(device)(tokens.tokens.flatten(0, 1), tokens.mask.flatten(0, 1))
    kernel, bias = (torch.from_numpy(params[f"vocab_proj/{part}"]).to(device) for part in ("kernel", "bias"))
    return (pooled @ kernel + bias).view(shape)
