"""Gradients of the diffusion loss through head and transformer, official leaf by official leaf."""

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from policy.octo.official_names import T5, Array, Rule, diffusion_rules, octo_rules, to_official
from policy.octo.parity.reference import Case
from policy.octo.parity.table import NORM, Table
from policy.octo.settings import OctoSettings

_NORM, _FULL = "grad/norm/", "grad/full/"
_NOISE = 1e-6
"""Of the norm over all leaves: below it, a leaf's gradient is zero but for rounding (a bias before a norm)."""


def check_gradients(table: Table, case: Case, octo: nn.Module, head: nn.Module, settings: OctoSettings) -> None:
    """After `backward`. Leaves of the language encoder are never trained: theirs must be zero."""
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
