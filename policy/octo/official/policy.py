"""This module makes a policy of an official checkpoint, with its language encoder in transformers' format.

    checkpoint ─► octo, head             tensors under our names
               ─► statistics of one dataset ─► action_units: from what the head predicts to the dataset's units
               ─► language/              T5 encoder and tokenizer

The heads of the original take no proprioception, so the policy's features are the readout alone.

The sizes of the T5 encoder are read from its weights: heads from the relative position bias, widths from the kernels.
The rest is T5 v1.0's: ReLU, no gate, RMSNorm eps 1e-6, distances up to 128. A checkpoint holds no tokenizer. Without
one no language folder is written: beside the encoder's config alone, transformers would create an empty tokenizer,
which gives every sentence the same tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from policy.language import load_tokenizer
from policy.model import Policy
from policy.normalize import action_units
from policy.octo.official.checkpoint import OfficialCheckpoint, check_all_used, head_state, octo_state, t5_layers
from policy.octo.official.config import head_settings, octo_settings
from policy.octo.official.names import T5, Params, t5_rules, to_state
from policy.octo.settings import OctoSettings
from policy.settings import ActionUnits, ContinuousSettings, DiffusionSettings, PolicySettings
from protos.errors import CorruptData, InputError
from protos.schema import ACTION_DIM, PROPRIO_DIM

_ROUNDING = 1e-5
"""Share of a readout that two equal images may differ by, from the rows of a batch."""
LANGUAGE = "language"
"""Folder of the language encoder inside a policy's folder."""


def imported_policy(
    checkpoint: OfficialCheckpoint,
    *,
    side_px: int | None = None,
    wrist_px: int | None = None,
    dataset: str | None = None,
) -> Policy:
    """Returns the policy; with other image sizes its positional embeddings are interpolated."""
    octo = octo_settings(checkpoint.config, checkpoint.params)
    kind, head = head_settings(checkpoint.config, octo.readout_tokens)
    if head.action_dim > ACTION_DIM:
        raise InputError(f"action_dim={head.action_dim} of the checkpoint: at most {ACTION_DIM} fit on the wire")
    check_all_used(checkpoint.params, octo, kind)
    state = octo_state(checkpoint.params, octo)
    resized = replace(octo, side_px=side_px or octo.side_px, wrist_px=wrist_px or octo.wrist_px)
    policy = Policy(
        PolicySettings(
            octo=resized,
            action_head=kind,
            diffusion=head if isinstance(head, DiffusionSettings) else DiffusionSettings(),
            continuous=head if isinstance(head, ContinuousSettings) else ContinuousSettings(),
            active_action_dims=tuple(range(head.action_dim)),
            action_units=dataset_units(checkpoint, head.action_dim, dataset),
            proprio_indices=(),
            language_folder=LANGUAGE,
        )
    )
    policy.octo.load_state_dict(_resized(state, octo, resized))
    policy.head.load_state_dict(head_state(checkpoint.params, policy.head.state_dict(), kind))
    return policy


def datasets(checkpoint: OfficialCheckpoint) -> dict[str, Mapping[str, Any]]:
    """Returns statistics by dataset. A model fine-tuned on one dataset keeps its statistics without a name."""
    if isinstance(checkpoint.statistics.get("action"), dict):
        return {"": checkpoint.statistics}
    return {name: one for name, one in checkpoint.statistics.items() if _has_action(one)}


def _has_action(statistics: Any) -> bool:
    return isinstance(statistics, dict) and isinstance(statistics.get("action"), dict)


def dataset_units(checkpoint: OfficialCheckpoint, action_dim: int, dataset: str | None) -> ActionUnits | None:
    """Returns the units of a dataset's actions: a · std + mean where its mask holds.

    Without a name it is the only dataset there is, or none.
    """
    found = datasets(checkpoint)
    if dataset is None:
        if len(found) != 1:
            return None
        dataset = next(iter(found))
    if dataset not in found:
        raise InputError(f"dataset {dataset!r}: the checkpoint has statistics of {', '.join(found) or 'none'}")
    action = found[dataset]["action"]
    for name in ("mean", "std", *(["mask"] if "mask" in action else [])):
        _check_numbers(action, name, action_dim, dataset)
    return action_units(action, "normal")


def resized_positions(positions: Tensor, tokens: int) -> Tensor:
    """Resizes (horizon, n, D) to (horizon, tokens, D): bicubic on the grid of patches, time steps on their own.

    With antialiasing, which also makes the kernel that of `jax.image.resize`: a plane stays a plane.
    """
    side, target = round(positions.shape[1] ** 0.5), round(tokens**0.5)
    if side == target:
        return positions
    grid = positions.unflatten(1, (side, side)).movedim(-1, 1)
    size = (target, target)
    resized = functional.interpolate(grid, size, mode="bicubic", align_corners=False, antialias=True)
    return resized.flatten(2).mT.contiguous()


_FIRST = f"{T5}encoder/block/0/layer/"
_KEYS = {
    "embedding": f"{T5}shared/embedding",
    "bias": f"{_FIRST}0/SelfAttention/relative_attention_bias/embedding",
    "query": f"{_FIRST}0/SelfAttention/q/kernel",
    "enter": f"{_FIRST}1/DenseReluDense/wi/kernel",
}


def t5_config(params: Params) -> Any:
    """Returns the `T5Config` of the weights in a checkpoint."""
    try:
        from transformers import T5Config
    except ImportError as error:
        raise InputError(
            "the language encoder of a checkpoint needs transformers: pip install 'transformers>=5'"
        ) from error

    missing = [path for path in _KEYS.values() if path not in params]
    if missing:
        raise CorruptData(f"language encoder: the checkpoint has no parameter {missing[0]!r} (T5 v1.0 is supported)")
    shapes = {name: params[path].shape for name, path in _KEYS.items()}
    if any(len(shape) != 2 for shape in shapes.values()) or shapes["bias"][1] < 1:
        raise CorruptData(f"language encoder: odd shapes {shapes}")
    buckets, heads = shapes["bias"]
    return T5Config(
        vocab_size=shapes["embedding"][0],
        d_model=shapes["embedding"][1],
        d_kv=shapes["query"][1] // heads,
        d_ff=shapes["enter"][1],
        num_layers=t5_layers(params),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=128,
        layer_norm_epsilon=1e-6,
        feed_forward_proj="relu",
    )


def build_t5(params: Params) -> nn.Module:
    """Returns transformers' T5EncoderModel with the checkpoint's weights, frozen and in evaluation mode."""
    from transformers import T5EncoderModel

    config = t5_config(params)
    model: nn.Module = T5EncoderModel(config)
    state = to_state(params, t5_rules(config.num_layers), dict(model.named_parameters()), "language encoder")
    model.load_state_dict(state, strict=False)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def encode_ids(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns (n, L, d_model) of token ids (n, L) and a mask (n, L) of those that are not padding."""
    return model(input_ids=input_ids.long(), attention_mask=attention_mask.long()).last_hidden_state


def save_t5(model: Any, folder: Path) -> None:
    """Writes a folder in transformers' format (safetensors), as `PolicySettings.language_folder` takes it."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model.save_pretrained(folder, safe_serialization=True)


def save_language(encoder: Any, tokenizer_folder: Path, target: Path) -> None:
    """Writes the language encoder (transformers' T5EncoderModel) with a tokenizer whose words it knows."""
    tokenizer = load_tokenizer(tokenizer_folder, encoder.config.vocab_size, f"--tokenizer {tokenizer_folder}")
    save_t5(encoder, target)
    tokenizer.save_pretrained(str(target))


@torch.inference_mode()
def try_policy(policy: Policy, tokens: Tensor) -> None:
    """Predicts two actions, of two noises seen by both cameras and of tokens (language tokens, language_dim).

    Raises CorruptData when a number of them is not finite, or when the images make no difference to the readout.
    """
    octo, noise = policy.settings.octo, torch.Generator().manual_seed(0)
    side, wrist = (
        torch.randint(0, 256, (2, octo.window, px, px, 3), dtype=torch.uint8, generator=noise)
        for px in (octo.side_px, octo.wrist_px)
    )
    readout = policy.embed(side, wrist, tokens[None])
    features = policy.features(readout, torch.zeros(2, octo.window, PROPRIO_DIM))
    action = policy.to_wire(policy.sample(features, noise))
    for name, numbers in (("readout", readout), ("action", action)):
        if not torch.isfinite(numbers).all():
            raise CorruptData(f"the checkpoint's {name} of a trial image is not finite; its parameters are damaged")
    if (readout[0] - readout[1]).abs().max() <= _ROUNDING * readout.abs().max():
        raise CorruptData("the checkpoint's readout is the same for every image; its parameters are damaged")


def _resized(state: dict[str, Tensor], old: OctoSettings, new: OctoSettings) -> dict[str, Tensor]:
    sizes = {"side": (old.side_px, new.side_px), "wrist": (old.wrist_px, new.wrist_px)}
    positions = {
        f"positions.{camera}": resized_positions(state[f"positions.{camera}"], (after // 16) ** 2)
        for camera, (before, after) in sizes.items()
        if after != before
    }
    return {**state, **positions}


def _check_numbers(action: Mapping[str, Any], name: str, count: int, dataset: str) -> None:
    values = action.get(name)
    if not isinstance(values, Sequence) or len(values) != count:
        raise CorruptData(f"statistics of {dataset!r}: action.{name}={values!r}, {count} numbers expected")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise CorruptData(f"statistics of {dataset!r}: action.{name}={values!r}, finite numbers expected")
    if name == "std" and (min(values) < 0 or max(values) <= 0):
        raise CorruptData(f"statistics of {dataset!r}: action.std={values!r}, from 0 up and not all 0 expected")
