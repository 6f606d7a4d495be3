"""Reading the checkpoints of the original (octo-models/octo) with msgpack alone.

    folder/config.json                        what the model is made of; nothing is guessed from the weights
    folder/dataset_statistics.json            mean and deviation of actions, per dataset
    folder/example_batch.msgpack              a batch as it was trained with
    folder/<step>/default/checkpoint          all parameters, the T5 encoder's included

`read_checkpoint` reads the folder, `official_config` turns its config into settings, `octo_state` and `head_state` its
parameters into tensors, `policy.octo.t5` builds the language encoder.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from policy.octo.model import Octo
from policy.octo.official_config import HeadKind
from policy.octo.official_msgpack import leaves, read_msgpack
from policy.octo.official_names import (
    Array,
    Params,
    Rule,
    check_one_to_one,
    continuous_rules,
    diffusion_rules,
    octo_rules,
    t5_rules,
    to_state,
)
from policy.octo.settings import OctoSettings
from protos.errors import CorruptData, InputError

CONFIG = "config.json"
STATISTICS = "dataset_statistics.json"
EXAMPLE = "example_batch.msgpack"


@dataclass(frozen=True, kw_only=True)
class OfficialCheckpoint:
    """What a folder holds."""

    folder: Path
    step: int
    config: Mapping[str, Any]
    """config.json with the names of Octo 1.5."""
    statistics: Mapping[str, Any]
    """dataset_statistics.json: dataset → {action: {mean, std, mask, …}, proprio, num_transitions, num_trajectories}."""
    params: Mapping[str, Array]
    """Path → leaf, as in `octo_transformer/obs_primary_projection/kernel`."""
    example: Mapping[str, Any]
    """The example batch with the names of Octo 1.5; empty when the folder has none."""


def read_checkpoint(folder: Path, step: int | None = None) -> OfficialCheckpoint:
    """The newest step, or the one named."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    config, statistics = _json(folder / CONFIG), _json(folder / STATISTICS)
    step = _newest(folder) if step is None else step
    file = _checkpoint_file(folder, step)
    params = dict(leaves(read_msgpack(file), str(file)))
    if not params:
        raise CorruptData(f"{file}: no parameters in it")
    example = read_msgpack(folder / EXAMPLE) if (folder / EXAMPLE).exists() else {}
    return OfficialCheckpoint(
        folder=folder,
        step=step,
        config=_renamed_config(config),
        statistics=statistics,
        params=params,
        example=_renamed_example(example),
    )


def octo_state(params: Params, settings: OctoSettings) -> dict[str, Tensor]:
    """`Octo.state_dict()` of a checkpoint's parameters."""
    with torch.device("meta"):
        expected = Octo(settings).state_dict()
    return to_state(params, octo_rules(settings), expected, "octo")


def head_state(
    params: Params, expected: Mapping[str, Tensor], kind: HeadKind = "diffusion", name: str = "heads_action"
) -> dict[str, Tensor]:
    """`state_dict()` of the action head, of the tensors in `expected` (a head of the right settings)."""
    return to_state(params, _head_rules(params, kind, name), expected, name)


def _head_rules(params: Params, kind: HeadKind, name: str) -> list[Rule]:
    if kind == "diffusion":
        return diffusion_rules(_numbered(params, f"{name}/diffusion_model/reverse_network/MLPResNetBlock_"), name)
    return continuous_rules(name, use_map=f"{name}/map_head/probe" in params)


def t5_layers(params: Params) -> int:
    """Layers of the language encoder; 0 when the checkpoint has none."""
    return _numbered(params, "octo_transformer/task_tokenizers_language/hf_model/encoder/block/")


def check_all_used(params: Params, settings: OctoSettings, kind: HeadKind = "diffusion") -> None:
    """Refuses parameters that no tensor of ours takes, or that two take."""
    rules = octo_rules(settings) + _head_rules(params, kind, "heads_action")
    if layers := t5_layers(params):
        rules += t5_rules(layers)
    check_one_to_one((path for rule in rules for path in rule.paths), params, "parameters of the checkpoint")


def _numbered(params: Params, prefix: str) -> int:
    return len({path[len(prefix) :].split("/")[0] for path in params if path.startswith(prefix)})


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; give the folder of an official Octo checkpoint") from error
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise CorruptData(f"{path}: a JSON object expected, found {type(found).__name__}")
    return found


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def _newest(folder: Path) -> int:
    steps = _steps(folder)
    if not steps:
        raise InputError(f"{folder}: no step folder in it (300000/default/checkpoint or the like)")
    return steps[-1]


def _checkpoint_file(folder: Path, step: int) -> Path:
    steps = _steps(folder)
    if step not in steps:
        raise InputError(f"{folder}: no step {step}; choose one of {', '.join(map(str, steps)) or 'none'}")
    default = folder / str(step) / "default"
    file = default / "checkpoint"
    if not file.is_file():
        found = ", ".join(sorted(path.name for path in default.glob("*"))[:4]) or "nothing"
        raise InputError(
            f"{file}: missing, {found} there instead; only checkpoints in a single msgpack file can be read (orbax "
            "before OCDBT, as OctoModel.save_pretrained writes with the pinned orbax 0.4.4)"
        )
    return file


def _renamed_config(config: dict[str, Any]) -> dict[str, Any]:
    """Octo 1.0 called the head's action horizon `pred_horizon`."""
    model = config.get("model")
    if not isinstance(model, dict):
        raise CorruptData(f"{CONFIG}: has no 'model'")
    if not isinstance(heads := model.get("heads"), dict):
        return config
    renamed = {
        name: {**spec, "kwargs": _renamed(spec["kwargs"], _HEAD_NAMES)} if _has_kwargs(spec) else spec
        for name, spec in heads.items()
    }
    return {**config, "model": {**model, "heads": renamed}}


def _has_kwargs(spec: Any) -> bool:
    return isinstance(spec, dict) and isinstance(spec.get("kwargs"), dict)


def _renamed_example(example: dict[str, Any]) -> dict[str, Any]:
    """Octo 1.0 said `tasks` and `pad_mask`."""
    example = _renamed(example, {"tasks": "task"})
    if isinstance(observation := example.get("observation"), dict):
        example["observation"] = _renamed(observation, {"pad_mask": "timestep_pad_mask"})
    return example


_HEAD_NAMES = {"pred_horizon": "action_horizon"}


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in values.items()}
