"""This module maps the parameter names of the original and of this package, one to one.

A `Rule` says which official leaves fill which tensor of ours and how the axes differ: flax keeps the input axis of a
kernel first and splits query, key and value by head. Rules work in both directions, so that gradients can be compared
leaf by leaf and a checkpoint can be written for a test.

    octo_transformer/obs_primary_projection/kernel [in, out]  ◄──►  projections.side.weight (out, in)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policy.octo.settings import STEM_CONVOLUTIONS, OctoSettings
from policy.settings import MAP_HEADS
from protos.errors import CorruptData

Array = NDArray[Any]
Params = Mapping[str, Array]

T5 = "octo_transformer/task_tokenizers_language/hf_model/"
CAMERA_NAMES = {"side": "primary", "wrist": "wrist"}
_STACK = "octo_transformer/BlockTransformer_0/Transformer_0/"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Maps official leaves to one of our tensors, and back."""

    paths: tuple[str, ...]
    name: str
    to_ours: Callable[..., Array]
    """Maps as many arrays as `paths` to one array."""
    to_official: Callable[[Array], tuple[Array, ...]]


def octo_rules(settings: OctoSettings) -> list[Rule]:
    """Returns the rules of Octo's own tensors, without language encoder and heads."""
    language = "octo_transformer/task_language"
    rules = [*_dense(f"{language}_projection", "projections.task_language")]
    rules.append(_positions(f"{language}_pos_embedding", "positions.task_language"))
    for ours, official in CAMERA_NAMES.items():
        stem = f"octo_transformer/observation_tokenizers_{official}/SmallStem16_0/"
        for i in range(STEM_CONVOLUTIONS):
            rules += _conv(f"{stem}StdConv_{i}", f"tokenizers.{ours}.stem.{3 * i}")
            rules += _norm(f"{stem}GroupNorm_{i}", f"tokenizers.{ours}.stem.{3 * i + 1}")
        rules += _conv(f"{stem}embedding", f"tokenizers.{ours}.stem.{3 * STEM_CONVOLUTIONS}")
        rules += _dense(f"octo_transformer/obs_{official}_projection", f"projections.{ours}")
        rules.append(_positions(f"octo_transformer/obs_{official}_pos_embedding", f"positions.{ours}"))
    rules.append(_positions("octo_transformer/readout_action_pos_embedding", "positions.readout"))
    for i in range(settings.layers):
        rules += _block(f"{_STACK}encoderblock_{i}/", f"transformer.blocks.{i}.", settings.heads)
    return [*rules, *_norm(f"{_STACK}encoder_norm", "transformer.norm")]


def diffusion_rules(blocks: int, head: str = "heads_action") -> list[Rule]:
    """Returns the rules of the diffusion head's score network."""
    root = f"{head}/diffusion_model/"
    network = f"{root}reverse_network/"
    rules = [_reshaped(f"{root}time_preprocess/kernel", "time_frequencies", lambda a: a[:, 0], lambda a: a[:, None])]
    rules += _dense(f"{root}cond_encoder/Dense_0", "time_mlp.0")
    rules += _dense(f"{root}cond_encoder/Dense_1", "time_mlp.2")
    rules += _dense(f"{network}Dense_0", "enter")
    for i in range(blocks):
        block = f"{network}MLPResNetBlock_{i}/"
        rules += _norm(f"{block}LayerNorm_0", f"blocks.{i}.norm")
        rules += _dense(f"{block}Dense_0", f"blocks.{i}.up")
        rules += _dense(f"{block}Dense_1", f"blocks.{i}.down")
    return [*rules, *_dense(f"{network}Dense_1", "leave")]


def continuous_rules(head: str, *, use_map: bool) -> list[Rule]:
    """Returns the rules of a regression head."""
    pooling = pooling_rules(f"{head}/map_head/", "pooling.") if use_map else []
    return [*pooling, *_dense(f"{head}/mean_proj", "mean")]


def pooling_rules(path: str, name: str) -> list[Rule]:
    """Returns the rules of attention pooling, the MAP head."""
    attention = f"{path}MultiHeadDotProductAttention_0/"
    rules = [_same(f"{path}probe", f"{name}probe"), *_attention_out(f"{attention}out", f"{name}out", MAP_HEADS)]
    for part in ("query", "key", "value"):
        rules += [
            _reshaped(
                f"{attention}{part}/kernel",
                f"{name}{part}.weight",
                lambda a: a.reshape(len(a), -1).T,
                lambda a: a.T.reshape(a.shape[1], MAP_HEADS, -1),
            ),
            _reshaped(
                f"{attention}{part}/bias",
                f"{name}{part}.bias",
                lambda a: a.reshape(-1),
                lambda a: a.reshape(MAP_HEADS, -1),
            ),
        ]
    rules += _norm(f"{path}LayerNorm_0", f"{name}norm")
    return [*rules, *_mlp(f"{path}MlpBlock_0/", f"{name}mlp.")]


def t5_rules(layers: int) -> list[Rule]:
    """Returns the rules of the encoder of transformers' `T5EncoderModel`."""
    rules = [_same(f"{T5}shared/embedding", "shared.weight")]
    bias = "block/0/layer/0/SelfAttention/relative_attention_bias"
    rules.append(_same(f"{T5}encoder/{bias}/embedding", f"encoder.{bias.replace('/', '.')}.weight"))
    kernels = [f"layer/0/SelfAttention/{name}" for name in "qkvo"]
    kernels += [f"layer/1/DenseReluDense/{name}" for name in ("wi", "wo")]
    for i in range(layers):
        block = f"encoder/block/{i}/"
        for kernel in kernels:
            rules.append(_transposed(f"{T5}{block}{kernel}/kernel", f"{block}{kernel}.weight".replace("/", ".")))
        for part in (0, 1):
            norm = f"{block}layer/{part}/layer_norm/weight"
            rules.append(_same(f"{T5}{norm}", norm.replace("/", ".")))
    return [*rules, _same(f"{T5}encoder/final_layer_norm/weight", "encoder.final_layer_norm.weight")]


def to_state(params: Params, rules: Sequence[Rule], expected: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Returns our tensors in float32, filled from official leaves; each of `expected` once and with its shape."""
    check_one_to_one((rule.name for rule in rules), expected, f"{what}: tensors")
    return {rule.name: _filled(params, rule, tuple(expected[rule.name].shape), what) for rule in rules}


def _filled(params: Params, rule: Rule, shape: tuple[int, ...], what: str) -> Tensor:
    missing = [path for path in rule.paths if path not in params]
    if missing:
        raise CorruptData(f"{what}: the checkpoint has no parameter {missing[0]!r}")
    leaves = [params[path] for path in rule.paths]
    wanted = [leaf.shape for leaf in rule.to_official(np.empty(shape, np.bool_))]
    if [leaf.shape for leaf in leaves] != wanted:
        raise CorruptData(
            f"{what}: {rule.paths[0]!r} is of shape {leaves[0].shape}, {wanted[0]} expected for the settings"
        )
    return torch.from_numpy(np.array(rule.to_ours(*leaves), np.float32, order="C"))


def to_official(state: Mapping[str, Tensor], rules: Iterable[Rule]) -> dict[str, Array]:
    """Returns the official leaves of tensors named as ours."""
    found: dict[str, Array] = {}
    for rule in rules:
        arrays = rule.to_official(state[rule.name].detach().cpu().numpy())
        found.update(zip(rule.paths, arrays, strict=True))
    return found


def check_one_to_one(given: Iterable[str], wanted: Iterable[str], what: str) -> None:
    """Raises CorruptData with the first name that is not there once on both sides."""
    names = list(given)
    wrong = sorted(set(names) ^ set(wanted)) or sorted(name for name in set(names) if names.count(name) > 1)
    if wrong:
        raise CorruptData(f"{what}: {len(wrong)} do not map one to one, first {wrong[0]!r}")


def _reshaped(path: str, name: str, to_ours: Callable[[Array], Array], back: Callable[[Array], Array]) -> Rule:
    return Rule(paths=(path,), name=name, to_ours=to_ours, to_official=lambda a: (back(a),))


def _same(path: str, name: str) -> Rule:
    return _reshaped(path, name, lambda a: a, lambda a: a)


def _transposed(path: str, name: str) -> Rule:
    return _reshaped(path, name, lambda a: a.T, lambda a: a.T)


def _positions(path: str, name: str) -> Rule:
    return _reshaped(path, name, lambda a: a[0], lambda a: a[None])


def _dense(path: str, name: str) -> list[Rule]:
    return [_transposed(f"{path}/kernel", f"{name}.weight"), _same(f"{path}/bias", f"{name}.bias")]


def _norm(path: str, name: str) -> list[Rule]:
    return [_same(f"{path}/scale", f"{name}.weight"), _same(f"{path}/bias", f"{name}.bias")]


def _conv(path: str, name: str) -> list[Rule]:
    """Returns the rules of a convolution: HWIO ◄──► OIHW."""
    kernel = _reshaped(
        f"{path}/kernel", f"{name}.weight", lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0)
    )
    return [kernel, _same(f"{path}/bias", f"{name}.bias")]


def _mlp(path: str, name: str) -> list[Rule]:
    return [*_dense(f"{path}Dense_0", f"{name}0"), *_dense(f"{path}Dense_1", f"{name}2")]


def _block(path: str, name: str, heads: int) -> list[Rule]:
    rules = [*_norm(f"{path}LayerNorm_0", f"{name}attention_norm"), *_norm(f"{path}LayerNorm_1", f"{name}mlp_norm")]
    rules += _attention(f"{path}MultiHeadDotProductAttention_0/", name, heads)
    return [*rules, *_mlp(f"{path}MlpBlock_0/", f"{name}mlp.")]


def _attention(path: str, name: str, heads: int) -> list[Rule]:
    """Returns the rules of an attention layer.

    query, key, value [D, heads, D / heads] ◄──► qkv (3 D, D); out [heads, D / heads, D] ◄──► (D, D).
    """
    parts = [f"{path}{part}" for part in ("query", "key", "value")]
    return [
        Rule(
            paths=tuple(f"{part}/kernel" for part in parts),
            name=f"{name}qkv.weight",
            to_ours=lambda *kernels: np.concatenate([a.reshape(len(a), -1).T for a in kernels]),
            to_official=lambda a: tuple(part.T.reshape(a.shape[1], heads, -1) for part in np.split(a, 3)),
        ),
        Rule(
            paths=tuple(f"{part}/bias" for part in parts),
            name=f"{name}qkv.bias",
            to_ours=lambda *biases: np.concatenate([a.reshape(-1) for a in biases]),
            to_official=lambda a: tuple(part.reshape(heads, -1) for part in np.split(a, 3)),
        ),
        *_attention_out(f"{path}out", f"{name}out", heads),
    ]


def _attention_out(path: str, name: str, heads: int) -> list[Rule]:
    kernel = _reshaped(
        f"{path}/kernel",
        f"{name}.weight",
        lambda a: a.reshape(-1, a.shape[-1]).T,
        lambda a: a.T.reshape(heads, -1, len(a)),
    )
    return [kernel, _same(f"{path}/bias", f"{name}.bias")]
