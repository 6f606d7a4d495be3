"""The instruction as T5-base tokens.

With `settings.language_folder` the sentence goes through the T5 encoder in that local folder (transformers format,
nothing is downloaded). Without one, a deterministic stand-in takes its place: every word becomes a unit-length
Gaussian vector drawn from the SHAKE-256 stream of the word. Equal words give equal tokens on every machine; there is no
meaning in them, so a policy trained with the stand-in knows its instructions apart but not new wordings.
"""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from policy.octo.settings import LANGUAGE_DIM
from policy.settings import PolicySettings
from protos.errors import InputError
from protos.schema import F32


def encode_instruction(text: str, settings: PolicySettings) -> F32:
    """(language tokens, 768). A single token is the mean over the sentence."""
    if not text.strip():
        raise InputError("the instruction is empty; give the task in a sentence")
    count = settings.octo.language_tokens
    if settings.language_folder:
        return _t5(text, count, settings.language_folder)
    words = np.stack([_stand_in(word) for word in text.lower().split()])
    if count == 1:
        pooled = words.mean(0, keepdims=True)
        return pooled / np.linalg.norm(pooled)
    tokens = np.zeros((count, LANGUAGE_DIM), np.float32)
    tokens[: len(words)] = words[:count]
    return tokens


def _stand_in(word: str) -> F32:
    """A unit vector (768,), by the Box-Muller transform of the hash stream of `word`."""
    stream = hashlib.shake_256(word.encode()).digest(8 * LANGUAGE_DIM)
    uniform = (np.frombuffer(stream, "<u4").reshape(2, LANGUAGE_DIM) + 0.5) / 2.0**32
    normal = np.sqrt(-2.0 * np.log(uniform[0])) * np.cos(2.0 * np.pi * uniform[1])
    return (normal / np.linalg.norm(normal)).astype(np.float32)


def _t5(text: str, count: int, folder: str) -> F32:
    import torch

    tokenizer, encoder = _load_t5(folder)
    padding = {"padding": "max_length", "max_length": count} if count > 1 else {"max_length": 64}
    batch = tokenizer(text, truncation=True, return_tensors="pt", **padding)
    with torch.inference_mode():
        hidden = encoder(**batch).last_hidden_state[0].numpy()
    return hidden.mean(0, keepdims=True) if count == 1 else hidden


@lru_cache(maxsize=1)
def _load_t5(folder: str) -> tuple[Any, Any]:
    if not Path(folder).is_dir():
        raise InputError(f"language_folder={folder!r}: no such folder; give a local T5-base folder or leave it empty")
    from transformers import AutoTokenizer, T5EncoderModel

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        encoder = T5EncoderModel.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError) as error:
        raise InputError(f"language_folder={folder!r}: not a T5 folder: {error}") from error
    if encoder.config.d_model != LANGUAGE_DIM:
        raise InputError(
            f"language_folder={folder!r}: T5 width {encoder.config.d_model}, must be {LANGUAGE_DIM} (T5-base)"
        )
    return tokenizer, encoder
