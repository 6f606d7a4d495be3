"""This module reads a checkpoint folder of the original (octo-models/octo), with msgpack alone.

    folder/config.json                        the model's settings; nothing is guessed from the weights
    folder/dataset_statistics.json            mean and deviation of actions, per dataset
    folder/example_batch.msgpack              a batch as it was trained with
    folder/<step>/default/checkpoint          all parameters, the T5 encoder's included

The msgpack files are flax's: nested maps of names; an array is an ext value of code 1 whose payload is msgpack again:
[shape, dtype name, C-order bytes]; a numpy scalar is code 3, with the same payload. Lengths are checked against the
bytes at hand before anything is allocated for them, and nothing in a file can name code to run.
"""

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policy.octo.model import Octo
from policy.octo.official.config import HeadKind
from policy.octo.official.names import (
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
from protos.pointers import refuse_pointer

CONFIG = "config.json"
STATISTICS = "dataset_statistics.json"
EXAMPLE = "example_batch.msgpack"


_ARRAY, _SCALAR = 1, 3
_DTYPES = frozenset(
    ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
)
_MAX_ITEMS = 65_536
_MAX_TEXT = 65_536
_MAX_DEPTH = 64
_PLACEHOLDER = "PLACEHOLDER://"
_CHUNKED = "__msgpack_chunked_array__"
_HEAD_NAMES = {"pred_horizon": "action_horizon"}
"""Octo 1.0's name of an argument of its heads, and Octo 1.5's."""


def read_msgpack(path: Path) -> dict[str, Any]:
    """Reads a file of nested maps, with numpy arrays at the leaves."""
    refuse_pointer(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _unpacked(data, path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise CorruptData(f"{path}: not a flax msgpack file ({error})") from error


def leaves(tree: Mapping[str, Any], where: str, prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """Yields the arrays of a tree by their paths, `a/b/c`."""
    if prefix.count("/") > _MAX_DEPTH:
        raise CorruptData(f"{where}: maps nested more than {_MAX_DEPTH} deep")
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if not isinstance(name, str) or "/" in name:
            raise CorruptData(f"{where}: parameter {path!r} has an odd name")
        if isinstance(value, Mapping):
            if _CHUNKED in value:
                raise InputError(
                    f"{where}: parameter {path!r} is stored in chunks (over 1 GiB), which is not supported"
                )
            yield from leaves(value, where, f"{path}/")
        elif isinstance(value, str) and value.startswith(_PLACEHOLDER):
            raise InputError(
                f"{where}: parameter {path!r} lies outside this file, in tensorstore files ({value!r}: saved by "
                "several hosts); save the model again with OctoModel.save_pretrained on one host"
            )
        elif isinstance(value, np.ndarray):
            yield path, value
        else:
            raise CorruptData(f"{where}: parameter {path!r} is {type(value).__name__}, an array expected")


def _unpacked(data: mmap.mmap, path: Path) -> dict[str, Any]:
    try:
        found = msgpack.unpackb(
            data,
            ext_hook=_extension,
            max_str_len=_MAX_TEXT,
            max_map_len=_MAX_ITEMS,
            max_array_len=_MAX_ITEMS,
        )
    except (msgpack.UnpackException, ValueError, TypeError) as error:
        raise CorruptData(f"{path}: not a flax msgpack file ({error or type(error).__name__})") from error
    if not isinstance(found, dict):
        raise CorruptData(f"{path}: not a flax msgpack file (a map expected, found {type(found).__name__})")
    return found


def _extension(code: int, payload: bytes) -> Any:
    if code not in (_ARRAY, _SCALAR):
        raise ValueError(f"ext type {code}; arrays are {_ARRAY}, scalars {_SCALAR}")
    shape, dtype, data = msgpack.unpackb(payload, max_array_len=64, max_map_len=0, max_ext_len=0)
    array = _array(shape, dtype, data)
    return array if code == _ARRAY else array[()]


def _array(shape: Any, dtype: Any, data: Any) -> NDArray[Any]:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"array of shape {shape!r}")
    widened = dtype == "bfloat16"
    if not widened and dtype not in _DTYPES:
        raise ValueError(f"array of dtype {dtype!r}; choose one of bfloat16, {', '.join(sorted(_DTYPES))}")
    kind = np.dtype("uint16" if widened else dtype)
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"array of shape {shape} and dtype {dtype} with {len(data)} bytes")
    array = np.frombuffer(data, kind).reshape(shape)
    return (array.astype(np.uint32) << 16).view(np.float32) if widened else array


@dataclass(frozen=True, kw_only=True)
class OfficialCheckpoint:
    """Holds the content of a checkpoint folder."""

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
    """Reads the newest step, or the one named."""
    refuse_pointer(folder)
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
    """Returns `Octo.state_dict()` of a checkpoint's parameters."""
    with torch.device("meta"):
        expected = Octo(settings).state_dict()
    return to_state(params, octo_rules(settings), expected, "octo")


def head_state(
    params: Params, expected: Mapping[str, Tensor], kind: HeadKind = "diffusion", name: str = "heads_action"
) -> dict[str, Tensor]:
    """Returns `state_dict()` of the action head, for the tensors in `expected` (a head of the right settings)."""
    return to_state(params, _head_rules(params, kind, name), expected, name)


def _head_rules(params: Params, kind: HeadKind, name: str) -> list[Rule]:
    if kind == "diffusion":
        return diffusion_rules(_numbered(params, f"{name}/diffusion_model/reverse_network/MLPResNetBlock_"), name)
    return continuous_rules(name, use_map=f"{name}/map_head/probe" in params)


def t5_layers(params: Params) -> int:
    """Returns the layers of the language encoder; 0 when the checkpoint has none."""
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
    refuse_pointer(path)
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
    """Returns a config with Octo 1.5's names: 1.0 called the head's action horizon `pred_horizon`."""
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
    """Returns an example with Octo 1.5's names: 1.0 had `tasks` and `pad_mask`."""
    example = _renamed(example, {"tasks": "task"})
    if isinstance(observation := example.get("observation"), dict):
        example["observation"] = _renamed(observation, {"pad_mask": "timestep_pad_mask"})
    return example


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in values.items()}
