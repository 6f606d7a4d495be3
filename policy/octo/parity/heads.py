"""This module compares the action heads of one case, on the embeddings that our own transformer gives.

Octo's discrete head (one token per number of the action, logits over bins) is in no release and no policy here has it;
it is compared because it exercises attention pooling with many probes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from policy.heads import ContinuousHead, DiffusionHead, MapPooling, masked_mean
from policy.octo.model import Tokens
from policy.octo.official.names import Params, continuous_rules, pooling_rules, to_state
from policy.octo.parity.reference import Case
from policy.octo.parity.table import ALL_CASES, CLOSE, LOSS, Table
from policy.settings import ContinuousSettings

_HEAD = "head_action/"
_EDGE = 1e-6


def check_diffusion(table: Table, case: Case, head: DiffusionHead, embedding: Tensor) -> None:
    """Compares score network and samples; `embedding` (B, W, D)."""
    _check_score(table, case, head, embedding)
    _check_samples(table, case, head, embedding)


def check_schedule(table: Table, schedule: Params, head: DiffusionHead) -> None:
    for name, theirs in schedule.items():
        table.compare(ALL_CASES, "schedule", name, getattr(head, name), theirs, CLOSE)


def diffusion_loss(case: Case, head: DiffusionHead, embedding: Tensor) -> Tensor | None:
    """Returns our loss at the steps and with the noise that the original drew, for each of its samples of noise."""
    names = ("actions", "action_pad_mask", "time", "noise")
    given = [case.tensor(f"{_HEAD}loss/{name}") for name in names]
    steps = case.tensor("in/timestep_pad_mask")
    if steps is None or any(one is None for one in given):
        return None
    actions, mask, time, noise = (one for one in given if one is not None)
    mask = mask & steps[:, :, None, None]
    repeated = (
        one.expand(len(time), *one.shape).flatten(0, 2) for one in (embedding, actions.to(embedding.dtype), mask)
    )
    return head.loss(*repeated, time=time.flatten(0, 2).long(), noise=noise.flatten(0, 2))


def check_loss(table: Table, case: Case, loss: Tensor) -> None:
    for name in (f"{_HEAD}loss/loss", f"{_HEAD}loss/mse", "grad/loss"):
        if (theirs := case.get(name)) is not None:
            table.compare(case.name, "losses", name, loss, theirs, LOSS)


def check_other_heads(table: Table, case: Case, outputs: Mapping[str, Tokens]) -> None:
    """Compares the regression and discrete heads that a file brings beside its model."""
    for name in sorted({key.split("/")[1] for key in case.names("aux_heads/")}):
        params = case.reference.below(f"aux_params/{name}/")
        if any(path.startswith("vocab_proj") for path in params):
            check_discrete(table, case, name, params, outputs)
        else:
            _check_continuous(table, case, name, outputs)


def _check_score(table: Table, case: Case, head: DiffusionHead, embedding: Tensor) -> None:
    time, noisy = case.tensor(f"{_HEAD}in/time"), case.tensor(f"{_HEAD}in/noisy_actions")
    if time is None or noisy is None:
        return
    levels: list[Tensor] = []
    hook = head.time_mlp.register_forward_hook(lambda module, given, output: levels.extend((given[0], output)))
    try:
        eps = head.predict(embedding.flatten(0, 1), noisy.flatten(0, 1), time.flatten(0, 1))
    finally:
        hook.remove()
    found = {"out/eps": eps, "mid/time_preprocess": levels[0], "mid/cond_encoder": levels[1]}
    for name, ours in found.items():
        if (theirs := case.get(_HEAD + name)) is not None:
            table.compare(case.name, "score network", name, ours.unflatten(0, embedding.shape[:2]), theirs, CLOSE)


def _check_samples(table: Table, case: Case, head: DiffusionHead, embedding: Tensor) -> None:
    """Compares chunks of the last time step from the noise that the original drew; all steps have their own."""
    noise, step_noise = case.tensor(f"{_HEAD}sample/noise"), case.tensor(f"{_HEAD}sample/z")
    if noise is None or step_noise is None:
        return
    last = embedding[:, -1]
    drawn = {"noise": noise[:, -1], "step_noise": step_noise[:, :, -1]}
    actions = head.sample(last, **drawn)
    if (theirs := case.get(f"{_HEAD}sample/actions")) is not None:
        table.compare(case.name, "samples", "sample", actions, theirs, CLOSE)
    dims, fewer = case.get(f"{_HEAD}sample_embodiment_dim/dim"), case.get(f"{_HEAD}sample_embodiment_dim/actions")
    if dims is not None and fewer is not None:
        mask = torch.arange(head.settings.action_dim, device=last.device) < int(dims)
        ours = head.sample(last, **drawn, action_mask=mask)
        table.compare(case.name, "samples", "embodiment dim", ours, fewer, CLOSE)
    _check_units(table, case, actions)


def _check_units(table: Table, case: Case, actions: Tensor) -> None:
    """Compares actions in the units of a dataset: a · std + mean where the mask says so."""
    mean, std, mask = (case.tensor(f"{_HEAD}unnorm/{name}") for name in ("mean", "std", "mask"))
    theirs = case.get(f"{_HEAD}unnorm/actions")
    if mean is not None and std is not None and mask is not None and theirs is not None:
        table.compare(case.name, "samples", "units", torch.where(mask, actions * std + mean, actions), theirs, CLOSE)


def _check_continuous(table: Table, case: Case, name: str, outputs: Mapping[str, Tokens]) -> None:
    key = f"aux_heads/{name}/"
    params = case.reference.below(f"aux_params/{name}/")
    theirs, loss, actions = (case.get(key + part) for part in ("out", "loss", "actions"))
    if theirs is None:
        return
    use_map = "map_head/probe" in params
    tokens = outputs["obs" if use_map else "readout_action"]
    settings = ContinuousSettings(action_horizon=theirs.shape[2], action_dim=theirs.shape[3], use_map=use_map)
    head = ContinuousHead(tokens.tokens.shape[-1], settings, "l1" if name.startswith("l1") else "mse")
    rules = continuous_rules("head", use_map=use_map)
    given = {f"head/{path}": array for path, array in params.items()}
    head.load_state_dict(to_state(given, rules, head.state_dict(), name))
    head = head.to(tokens.tokens.device)
    flat = tokens.tokens.flatten(0, 1), tokens.mask.flatten(0, 1)
    with torch.no_grad():
        found = head(*flat)
        ours = found.unflatten(0, tokens.tokens.shape[:2])
        table.compare(case.name, "other heads", name, ours, theirs, CLOSE)
        if actions is not None:
            table.compare(case.name, "other heads", f"{name} actions", ours[:, -1], actions, CLOSE)
        if loss is not None and (wanted := _targets(case)) is not None:
            table.compare(case.name, "losses", name, head.loss(flat[0], *wanted, flat[1]), loss, LOSS)


def _targets(case: Case) -> tuple[Tensor, Tensor] | None:
    """Returns the actions of the loss and a mask of those that count, (B · W, h, A)."""
    actions, mask = (case.tensor(f"{_HEAD}loss/{name}") for name in ("actions", "action_pad_mask"))
    steps = case.tensor("in/timestep_pad_mask")
    if actions is None or mask is None or steps is None:
        return None
    return actions.flatten(0, 1), (mask & steps[:, :, None, None]).flatten(0, 1)


def check_discrete(table: Table, case: Case, name: str, params: Params, outputs: Mapping[str, Tokens]) -> None:
    """Compares logits, loss and the actions of the likeliest bins; bins are even over [0, 1]."""
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
