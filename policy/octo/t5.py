"""The T5 encoder out of a checkpoint.

An official Octo checkpoint holds its language encoder's weights. They go into transformers' `T5EncoderModel`; the sizes
are read from the weights: heads from the relative position bias, widths from the kernels. What is not in the weights is
T5 v1.0's: ReLU, no gate, RMSNorm eps 1e-6, distances up to 128. The tokenizer is not in a checkpoint.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from policy.octo.official import t5_layers
from policy.octo.official_names import T5, Params, t5_rules, to_state
from protos.errors import CorruptData, InputError

_FIRST = f"{T5}encoder/block/0/layer/"
_KEYS = {
    "embedding": f"{T5}shared/embedding",
    "bias": f"{_FIRST}0/SelfAttention/relative_attention_bias/embedding",
    "query": f"{_FIRST}0/SelfAttention/q/kernel",
    "enter": f"{_FIRST}1/DenseReluDense/wi/kernel",
}


def t5_config(params: Params) -> Any:
    """The `T5Config` of the weights in a checkpoint."""
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
    """transformers' T5EncoderModel with the checkpoint's weights, frozen and in evaluation mode."""
    from transformers import T5EncoderModel

    config = t5_config(params)
    model: nn.Module = T5EncoderModel(config)
    state = to_state(params, t5_rules(config.num_layers), dict(model.named_parameters()), "language encoder")
    model.load_state_dict(state, strict=False)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def encode_ids(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """(n, L) token ids and which of them are not padding → (n, L, d_model)."""
    return model(input_ids=input_ids.long(), attention_mask=attention_mask.long()).last_hidden_state


def save_t5(model: Any, folder: Path) -> None:
    """A folder in transformers' format (safetensors), as `PolicySettings.language_folder` takes it."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model.save_pretrained(folder, safe_serialization=True)
