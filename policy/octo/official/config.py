"""This module turns the original's config.json into settings.

The original writes only arguments that differ from its class defaults, so the defaults stand here. Anything that this
package does not have is refused by name: a wrong model that loads is worse than none.
"""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any, Literal

from policy.octo.official.names import CAMERA_NAMES, Params
from policy.octo.settings import OctoSettings
from policy.settings import ContinuousSettings, DiffusionSettings
from protos.errors import CorruptData, InputError
from protos.settings import from_json

HeadKind = Literal["diffusion", "mse", "l1"]
_ANY = object()
"""Marks any value: it matters in training only, or it is read elsewhere."""
_LARGEST, _DEEPEST = 4096, 64
"""Widths and counts, and how many layers or blocks, so that a damaged config does not take all memory. Octo's base
model has 3072 and 12."""
_DEPTHS = ("layers", "blocks")
_MODEL = (
    "observation_tokenizers",
    "task_tokenizers",
    "heads",
    "readouts",
    "transformer_kwargs",
    "token_embedding_size",
    "max_horizon",
    "repeat_task_tokens",
    "use_correct_attention",
)
_TRANSFORMER = {
    "num_layers": _ANY,
    "mlp_dim": _ANY,
    "num_attention_heads": _ANY,
    "dropout_rate": _ANY,
    "attention_dropout_rate": _ANY,
    "add_position_embedding": False,
}
_IMAGE_TOKENIZER = {
    "encoder": _ANY,
    "obs_stack_keys": _ANY,
    "task_stack_keys": _ANY,
    "use_token_learner": False,
    "num_tokens": _ANY,  # of the token learner
    "conditioning_type": "none",
    "task_film_keys": [],
    "proper_pad_mask": True,
}
_STEM = {
    "features": _ANY,
    "num_features": _ANY,
    "use_film": False,
    "patch_size": 16,
    "kernel_sizes": [3, 3, 3, 3],
    "strides": [2, 2, 2, 2],
    "padding": [1, 1, 1, 1],
    "img_norm_type": "default",
}
_LANGUAGE = {"encoder": _ANY, "finetune_encoder": _ANY, "proper_pad_mask": True}
_HEAD = {"readout_key": "readout_action", "action_horizon": _ANY, "action_dim": _ANY, "max_action": _ANY}
_DIFFUSION = _HEAD | {
    "use_map": False,
    "loss_type": "mse",
    "time_dim": _ANY,
    "num_blocks": _ANY,
    "hidden_dim": _ANY,
    "diffusion_steps": _ANY,
    "use_layer_norm": True,
    "dropout_rate": _ANY,
    "n_diffusion_samples": _ANY,
}
_COMMON_NAMES: dict[str, tuple[str, Any]] = {
    "action_horizon": ("action_horizon", 1),
    "action_dim": ("action_dim", 7),
    "max_action": ("max_action", 5.0),
}
_DIFFUSION_NAMES: dict[str, tuple[str, Any]] = {
    "hidden_dim": ("hidden", 256),
    "num_blocks": ("blocks", 3),
    "time_dim": ("time_dim", 32),
    "diffusion_steps": ("steps", 20),
}
_CONTINUOUS: dict[str, HeadKind] = {"MSEActionHead": "mse", "L1ActionHead": "l1"}


def octo_settings(config: Mapping[str, Any], params: Params) -> OctoSettings:
    """Returns layout and sizes; image sizes and language tokens are those of the positional embeddings in `params`."""
    model = _mapping(config, "model", "config")
    _only(model, dict.fromkeys(_MODEL, _ANY), "model")
    stem, goals = _stem(model)
    transformer = _mapping(model, "transformer_kwargs", "model")
    _only(transformer, _TRANSFORMER, "model.transformer_kwargs")
    _language(model)
    readouts = _mapping(model, "readouts", "model")
    if list(readouts) != ["action"]:
        raise InputError(f"model.readouts={dict(readouts)}: only one readout, 'action', is supported")
    values = {
        "side_px": _image_px(params, CAMERA_NAMES["side"]),
        "wrist_px": _image_px(params, CAMERA_NAMES["wrist"]),
        "dim": model.get("token_embedding_size"),
        "layers": transformer.get("num_layers"),
        "heads": transformer.get("num_attention_heads"),
        "mlp_dim": transformer.get("mlp_dim"),
        "window": config.get("window_size", 1),
        "max_horizon": model.get("max_horizon"),
        "stem": "small_stem",
        "stem_features": stem.get("features", (32, 96, 192, 384)),
        "stem_out": stem.get("num_features", 512),
        "goal_images": goals,
        "language_tokens": _shape(params, "octo_transformer/task_language_pos_embedding", 3)[1],
        "repeat_language": model.get("repeat_task_tokens", False),
        "language_dim": _shape(params, "octo_transformer/task_language_projection/kernel", 2)[0],
        "readout_tokens": readouts["action"],
        "correct_attention": model.get("use_correct_attention", False),
    }
    return from_json(OctoSettings, _limited(values, "octo"), "octo")


def head_settings(
    config: Mapping[str, Any], readout_tokens: int
) -> tuple[HeadKind, DiffusionSettings | ContinuousSettings]:
    """Returns the kind of the action head and its sizes."""
    heads = _mapping(_mapping(config, "model", "config"), "heads", "model")
    if list(heads) != ["action"]:
        raise InputError(f"model.heads={list(heads)}: only one head, 'action', is supported")
    name, kwargs = _spec(heads["action"], "model.heads.action")
    where = "model.heads.action.kwargs"
    if name == "DiffusionActionHead":
        _only(kwargs, _DIFFUSION, where)
        return "diffusion", from_json(DiffusionSettings, _named(kwargs, _COMMON_NAMES | _DIFFUSION_NAMES), where)
    if name not in _CONTINUOUS:
        choices = ", ".join(["DiffusionActionHead", *_CONTINUOUS])
        raise InputError(f"model.heads.action={name!r}: not supported; choose one of {choices}")
    kind = _CONTINUOUS[name]
    _only(kwargs, _HEAD | {"use_map": _ANY, "loss_type": kind}, where)
    use_map = kwargs.get("use_map", True)
    if use_map and readout_tokens > 1:
        raise InputError(f"{where}.use_map=True: not supported over {readout_tokens} readout tokens")
    return kind, from_json(ContinuousSettings, _named(kwargs, _COMMON_NAMES) | {"use_map": use_map}, where)


def _named(kwargs: Mapping[str, Any], names: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Returns official arguments under our names, the class defaults where they are not spelled out."""
    values = {ours: kwargs.get(official, default) for official, (ours, default) in names.items()}
    return _limited(values, "model.heads.action")


def _limited(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Refuses sizes that no Octo has; the settings refuse values that are no number."""
    for name, value in values.items():
        limit = _DEEPEST if name in _DEPTHS else _LARGEST
        for size in value if isinstance(value, list | tuple) else [value]:
            if isinstance(size, int) and not isinstance(value, bool) and not 1 <= size <= limit:
                raise InputError(f"{where}.{name}={value}: 1 to {limit}")
    return values


def _stem(model: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Returns the stem's arguments and whether goal images are stacked, the same for both cameras."""
    tokenizers = _mapping(model, "observation_tokenizers", "model")
    wanted = list(CAMERA_NAMES.values())
    if list(tokenizers) != wanted:
        raise InputError(f"model.observation_tokenizers={list(tokenizers)}: supported are {wanted}, in this order")
    found = [_camera(name, spec) for name, spec in tokenizers.items()]
    if any(one != found[0] for one in found):
        raise InputError("model.observation_tokenizers: stems that differ between the cameras are not supported")
    return found[0]


def _camera(name: str, spec: Any) -> tuple[Mapping[str, Any], bool]:
    where, key = f"model.observation_tokenizers.{name}", f"image_{name}"
    kind, kwargs = _spec(spec, where)
    _only(kwargs, _IMAGE_TOKENIZER, f"{where}.kwargs")
    goals = kwargs.get("task_stack_keys", [])
    if kind != "ImageTokenizer" or kwargs.get("obs_stack_keys") != [key] or goals not in ([], [key]):
        raise InputError(f"{where}: supported is an ImageTokenizer of {key!r}, with or without its goal image")
    encoder, stem = _spec(kwargs.get("encoder"), f"{where}.encoder")
    if encoder not in ("SmallStem16", "SmallStem") or (encoder == "SmallStem" and "patch_size" not in stem):
        raise InputError(f"{where}.encoder={encoder!r}: SmallStem16 is supported")
    _only(stem, _STEM, f"{where}.encoder.kwargs")
    return stem, bool(goals)


def _language(model: Mapping[str, Any]) -> None:
    tokenizers = _mapping(model, "task_tokenizers", "model")
    if list(tokenizers) != ["language"]:
        raise InputError(f"model.task_tokenizers={list(tokenizers)}: supported is ['language']")
    name, kwargs = _spec(tokenizers["language"], "model.task_tokenizers.language")
    _only(kwargs, _LANGUAGE, "model.task_tokenizers.language.kwargs")
    if name != "LanguageTokenizer" or "t5" not in str(kwargs.get("encoder")):
        raise InputError(f"model.task_tokenizers.language={name!r}: supported is a LanguageTokenizer with a T5 encoder")


def _image_px(params: Params, camera: str) -> int:
    """Returns the side of the images that a square grid of 16-pixel tokens covers."""
    path = f"octo_transformer/obs_{camera}_pos_embedding"
    tokens = _shape(params, path, 4)[2]
    if isqrt(tokens) ** 2 != tokens:
        raise InputError(f"{path}: {tokens} tokens are no square grid; images must be square")
    return 16 * isqrt(tokens)


def _shape(params: Params, path: str, dimensions: int) -> tuple[int, ...]:
    if path not in params:
        raise CorruptData(f"the checkpoint has no parameter {path!r}")
    shape = params[path].shape
    if len(shape) != dimensions:
        raise CorruptData(f"{path}: of shape {shape}, {dimensions} dimensions expected")
    return shape


def _mapping(parent: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    if not isinstance(value := parent.get(key), Mapping):
        raise CorruptData(f"{where}.{key}={value!r}: an object expected")
    return value


def _spec(spec: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    """Returns name and keyword arguments of a ModuleSpec {module, name, args, kwargs}."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("kwargs"), Mapping):
        raise CorruptData(f"{where}={spec!r}: a module with kwargs expected")
    if spec.get("args"):
        raise InputError(f"{where}.args={spec['args']!r}: positional arguments are not supported")
    return str(spec.get("name")), spec["kwargs"]


def _only(found: Mapping[str, Any], supported: Mapping[str, Any], where: str) -> None:
    """Refuses a key that is not known, or a value other than the only one supported."""
    for key, value in found.items():
        if key not in supported:
            raise InputError(f"{where}.{key}={value!r}: not supported; known are {', '.join(supported)}")
        only = supported[key]
        plain = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        if only is not _ANY and plain != only:
            raise InputError(f"{where}.{key}={value!r}: not supported, only {only!r} is")
