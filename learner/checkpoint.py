"""Checkpoints of a running stage: networks, optimizers, random streams, counters. Safetensors and JSON, no pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from policy import checkpoint
from protos.errors import CorruptData

exists = checkpoint.exists


def save(
    path: Path,
    *,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    generator: torch.Generator,
    rng: np.random.Generator | None = None,
    state: Mapping[str, Any],
) -> None:
    """Writes everything that `restore` needs; `state` is any JSON object."""
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        tensors |= {f"{name}.{key}": value for key, value in _optimizer_tensors(optimizer).items()}
    tensors["generator"] = generator.get_state()
    numpy_state = None if rng is None else json.loads(json.dumps(rng.bit_generator.state, default=int))
    checkpoint.save(path, tensors, {"state": dict(state), "numpy_rng": numpy_state})


def restore(
    path: Path,
    *,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    generator: torch.Generator,
    rng: np.random.Generator | None = None,
) -> dict[str, Any]:
    """Loads a checkpoint into the objects given, in place; returns `state`."""
    tensors, manifest = checkpoint.load(path)
    try:
        for name, module in modules.items():
            module.load_state_dict(_under(tensors, name))
        for name, optimizer in optimizers.items():
            _load_optimizer(optimizer, _under(tensors, name))
        generator.set_state(tensors["generator"])
        if rng is not None:
            rng.bit_generator.state = manifest["numpy_rng"]
        return dict(manifest["state"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CorruptData(f"{path}: this checkpoint is of another network or stage: {error}") from error


def restore_modules(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """Loads only these modules of a checkpoint, in place: another stage starts from them."""
    tensors, _ = checkpoint.load(path)
    try:
        for name, module in modules.items():
            module.load_state_dict(_under(tensors, name))
    except RuntimeError as error:
        raise CorruptData(f"{path}: this checkpoint is of another network: {error}") from error


def _under(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts as `<parameter index>.<what>`."""
    return {
        f"{index}.{what}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for what, value in entries.items()
    }


def _load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Moments and step counts; learning rates and other settings stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, what = key.split(".", 1)
        state.setdefault(int(index), {})[what] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
