"""This module compares all cases of a reference file, gradients of the diffusion loss included."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from policy.heads import DiffusionHead
from policy.octo.model import Octo
from policy.octo.official.checkpoint import check_all_used, head_state, octo_state, t5_layers
from policy.octo.official.config import head_settings
from policy.octo.official.names import T5, Array, Params, Rule, diffusion_rules, octo_rules, to_official
from policy.octo.official.policy import build_t5, encode_ids
from policy.octo.parity.heads import check_diffusion, check_loss, check_other_heads, check_schedule, diffusion_loss
from policy.octo.parity.reference import Case, Reference
from policy.octo.parity.table import ALL_CASES, NORM, Table
from policy.octo.parity.transformer import check_transformer
from policy.octo.settings import OctoSettings
from policy.settings import DiffusionSettings
from protos.errors import InputError

_NORM, _FULL = "grad/norm/", "grad/full/"
_NOISE = 1e-6
"""Share of the norm over all leaves below which a leaf's gradient is zero but for rounding (a bias before a norm)."""


def compare_file(path: Path, device: torch.device) -> tuple[Table, list[str]]:
    """Returns the table, and the names in the file that nothing was compared with."""
    reference, table = Reference.read(path, device), Table()
    params = reference.below("params/")
    encoder = build_t5(params).to(device) if t5_layers(params) else None
    for case in reference.cases():
        _compare_case(table, case, params, encoder)
    return table, reference.unused


def _compare_case(table: Table, case: Case, params: Params, encoder: nn.Module | None) -> None:
    settings, device = case.settings(), case.reference.device
    check_all_used(params, settings)
    octo = Octo(settings)
    octo.load_state_dict(octo_state(params, settings))
    octo = octo.to(device)
    head = _head(case, params, settings.dim, settings.readout_tokens).to(device)
    if "schedule" not in table.parts(ALL_CASES):
        check_schedule(table, case.reference.below("schedule/"), head)
    language = None
    if (ids := case.language_ids()) is not None:
        if encoder is None:
            raise InputError(f"case {case.name!r} has language, but the file holds no language encoder")
        language = encode_ids(encoder, *ids)
    outputs = check_transformer(table, case, octo, case.inputs(language))
    embedding = outputs["readout_action"].tokens.mean(2)
    with torch.no_grad():
        check_diffusion(table, case, head, embedding)
    check_other_heads(table, case, outputs)
    if (loss := diffusion_loss(case, head, embedding)) is not None:
        check_loss(table, case, loss)
        if case.names("grad/"):
            loss.backward()
            check_gradients(table, case, octo, head, settings)


def _head(case: Case, params: Params, dim: int, readout_tokens: int) -> DiffusionHead:
    _, settings = head_settings(case.reference.config, readout_tokens)
    if not isinstance(settings, DiffusionSettings):
        raise InputError("the file's action head is not a diffusion head")
    head = DiffusionHead(dim, settings)
    head.load_state_dict(head_state(params, head.state_dict()))
    return head


def check_gradients(table: Table, case: Case, octo: nn.Module, head: nn.Module, settings: OctoSettings) -> None:
    """Compares gradients after `backward`; those of the language encoder, never trained, must be zero."""
    ours = _gradients(octo, octo_rules(settings))
    ours |= _gradients(head, diffusion_rules(len(head.get_submodule("blocks")._modules)))
    norms = {name.removeprefix(_NORM): case.get(name) for name in case.names(_NORM)}
    floor = _NOISE * math.sqrt(sum(float(norm) ** 2 for norm in norms.values() if norm is not None))
    for path, norm in norms.items():
        mine = _of(ours, path)
        if norm is None or mine is None:
            table.add(case.name, "gradient norms", f"{path}: no such tensor", float("inf"), NORM.absolute)
            continue
        difference = abs(float(np.linalg.norm(mine)) - float(norm))
        table.add(case.name, "gradient norms", path, _part(difference, float(norm), floor), NORM.absolute)
    for name in case.names(_FULL):
        mine, theirs = _of(ours, name.removeprefix(_FULL)), case.get(name)
        if mine is None or theirs is None or mine.shape != theirs.shape:
            table.add(case.name, "gradients", f"{name}: no tensor of this shape", float("inf"), NORM.absolute)
            continue
        scale = max(float(np.linalg.norm(theirs.astype(np.float64))), floor)
        table.add(case.name, "gradients", name, _part(float(np.abs(mine - theirs).max()), scale, floor), NORM.absolute)


def _of(gradients: Mapping[str, Array], path: str) -> Array | None:
    return np.zeros(1) if path.startswith(T5) else gradients.get(path)


def _part(difference: float, norm: float, floor: float) -> float:
    scale = max(norm, floor)
    return difference / scale if scale else difference


def _gradients(module: nn.Module, rules: list[Rule]) -> dict[str, Array]:
    gradients: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        gradients[name] = parameter.new_zeros(parameter.shape) if parameter.grad is None else parameter.grad.double()
    return to_official(gradients, rules)
