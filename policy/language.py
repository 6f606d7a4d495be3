"""This module turns the instruction into T5-base tokens.

With `settings.language_folder` the sentence goes through the T5 encoder in that local folder (transformers format,
nothing is downloaded, nothing in it is trained). An imported policy brings its own, in `<policy folder>/language`.
Without one, a deterministic stand-in takes its place: every word becomes a unit-length
Gaussian vector drawn from the SHAKE-256 stream of the word. Equal words give equal tokens on every machine; there is no
meaning in them, so a policy trained with the stand-in knows its instructions apart but not new wordings.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from policy.settings import PolicySettings
from protos.errors import InputError
from protos.pointers import refuse_pointers
from protos.problems import first_line
from protos.schema import F32

_TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
_SIZES = ("vocab_size", "d_model", "d_ff", "num_layers", "num_heads", "d_kv")
_MOST_LAYERS = 256
_TRIED_WORDS = 32
_POOLED_TOKENS = 64
"""Longest sentence that a single token is the mean of."""


def encode_instruction(text: str, settings: PolicySettings) -> F32:
    """Returns tokens (language tokens, octo.language_dim); a single token is the mean over the sentence."""
    if not text.strip():
        raise InputError("the instruction is empty; give the task in a sentence")
    count, width = settings.octo.language_tokens, settings.octo.language_dim
    if settings.language_folder:
        check_language(settings)
        return _t5(text, count, width, settings.language_folder)
    words = np.stack([_stand_in(word, width) for word in text.lower().split()])
    if count == 1:
        pooled = words.mean(0, keepdims=True)
        return pooled / np.linalg.norm(pooled)
    tokens = np.zeros((count, width), np.float32)
    tokens[: len(words)] = words[:count]
    return tokens


def check_language(settings: PolicySettings) -> None:
    """Raises InputError when the folder of the language encoder, where there is to be one, is not here or not whole."""
    folder = settings.language_folder
    if folder and not Path(folder).is_dir():
        raise InputError(
            f"language_folder={folder!r}: no such folder on this machine; give a local T5-base folder (every machine "
            "that acts or learns needs it) or leave it empty"
        )
    if folder:
        _check_files(Path(folder), f"language_folder={folder!r}")


def load_tokenizer(folder: Path, vocabulary: int, where: str) -> Any:
    """Returns the tokenizer of a local folder once it has cut a sentence into tokens that the encoder knows.

    `vocabulary` is the number of tokens that the encoder has. Raises InputError, which `where` begins, for a folder
    whose tokenizer cannot be read or used; nothing is downloaded.
    """
    _check_files(folder, where)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        if len(tokenizer) > vocabulary:
            raise InputError(f"{where}: {len(tokenizer)} words, the language encoder has {vocabulary}")
        if tokenizer.pad_token is None:
            raise InputError(
                f"{where}: its tokenizer knows no padding token, which tokenizer.json alone does not name; put "
                "tokenizer_config.json beside it: hf download google-t5/t5-base --include 'tokenizer*' 'spiece.model' "
                "--local-dir DIR"
            )
        _try_words(tokenizer, vocabulary, where)
    except InputError:
        raise
    except Exception as error:  # its Rust library raises bare Exceptions; whoever gave the folder hears of them
        raise InputError(f"{where}: no tokenizer that can be read: {first_line(error)}") from error
    return tokenizer


def _check_files(folder: Path, where: str) -> None:
    refuse_pointers(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        # transformers would make up an empty one
        raise InputError(f"{where}: no tokenizer in it, neither {' nor '.join(_TOKENIZER_FILES)}")


def _try_words(tokenizer: Any, vocabulary: int, where: str) -> None:
    """Raises InputError when words of its own are cut into tokens that are the same, or beyond the encoder."""
    special = set(tokenizer.all_special_tokens)
    words = [word.strip("▁") for word in tokenizer.get_vocab() if word not in special]
    words = [word for word in words if word.isalnum()][:_TRIED_WORDS]
    found = [tokenizer(word, truncation=True, padding="max_length", max_length=8)["input_ids"] for word in words]
    if len(set(map(tuple, found))) < min(2, len(words)) or not words:
        raise InputError(f"{where}: its tokenizer cuts every word into the same tokens; it is not whole")
    if any(not 0 <= token < vocabulary for tokens in found for token in tokens):
        raise InputError(f"{where}: its tokenizer gives tokens beyond the {vocabulary} of the language encoder")


def _stand_in(word: str, width: int) -> F32:
    """Returns a unit vector (width,), by the Box-Muller transform of the hash stream of `word`."""
    stream = hashlib.shake_256(word.encode()).digest(8 * width)
    uniform = (np.frombuffer(stream, "<u4").reshape(2, width) + 0.5) / 2.0**32
    normal = np.sqrt(-2.0 * np.log(uniform[0])) * np.cos(2.0 * np.pi * uniform[1])
    return (normal / np.linalg.norm(normal)).astype(np.float32)


def _t5(text: str, count: int, width: int, folder: str) -> F32:
    import torch

    tokenizer, encoder = _load_t5(folder)
    if encoder.config.d_model != width:
        raise InputError(
            f"language_folder={folder!r}: this T5 gives {encoder.config.d_model} numbers a token, "
            f"the policy takes octo.language_dim={width} (768: T5-base)"
        )
    padding = {"padding": "max_length", "max_length": count} if count > 1 else {"max_length": _POOLED_TOKENS}
    batch = tokenizer(text, truncation=True, return_tensors="pt", **padding)
    with torch.inference_mode():
        hidden = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    tokens: F32 = hidden.last_hidden_state[0].numpy()
    if not np.isfinite(tokens).all():
        raise InputError(f"language_folder={folder!r}: this T5 gives numbers that are not finite for {text!r}")
    return tokens.mean(0, keepdims=True) if count == 1 else tokens


@lru_cache(maxsize=1)
def _load_t5(folder: str) -> tuple[Any, Any]:
    where = f"language_folder={folder!r}"
    import torch

    try:
        from transformers import T5EncoderModel
        from transformers.utils import logging
    except ImportError as error:
        raise InputError(f"{where}: needs transformers: pip install 'transformers>=5'") from error
    logging.disable_progress_bar()  # it would write over a stage's own
    _check_files(Path(folder), where)
    _check_size(Path(folder), where)
    try:
        encoder, about = T5EncoderModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        with torch.inference_mode():
            encoder(input_ids=torch.zeros(1, _POOLED_TOKENS, dtype=torch.long))
    except Exception as error:  # safetensors raises an Exception of its own; whoever gave the folder hears of it
        raise InputError(f"{where}: not a T5 folder: {first_line(error)}") from error
    if missing := sorted({*about["missing_keys"], *(str(each) for each in about["mismatched_keys"])}):
        # transformers would fill them with random numbers
        raise InputError(f"{where}: its weights lack {len(missing)} tensors of a T5 encoder, first {missing[0]!r}")
    return load_tokenizer(Path(folder), encoder.config.vocab_size, where), encoder.eval().requires_grad_(False)


def _check_size(folder: Path, where: str) -> None:
    """Raises InputError for a config that promises a larger encoder than its weights can fill.

    transformers would make the whole of it, in memory, before it looks at the weights.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        vocabulary, width, inner, layers, heads, part = (int(config[name]) for name in _SIZES)
        numbers = vocabulary * width + layers * (4 * width * heads * part + 2 * width * inner)
    except FileNotFoundError as error:
        raise InputError(f"{where}: not a T5 folder: no config.json") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{where}: not a T5 folder: config.json has no sizes ({error!r})") from error
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if min(vocabulary, width, inner, layers, heads, part) < 1 or layers > _MOST_LAYERS or numbers > stored:
        raise InputError(
            f"{where}: not a T5 folder: config.json promises {numbers:,} numbers in {layers} layers, its safetensors "
            f"files have {stored:,} bytes"
        )
