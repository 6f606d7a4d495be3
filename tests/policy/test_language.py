"""These tests turn instructions into tokens, by the stand-in and by a real (tiny) T5 from a local folder."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from policy.checkpoint import load_policy, save_policy
from policy.language import encode_instruction
from policy.model import Policy
from policy.octo.settings import OctoSettings
from policy.settings import PolicySettings, preset
from protos.errors import InputError

TINY = preset("tiny")
TEXT = "Put the cube on the disc."
WORDS = ["<pad>", "</s>", "<unk>", "put", "the", "cube", "on", "disc"]


def test_instructions_are_deterministic_unit_tokens():
    token = encode_instruction(TEXT, TINY)
    assert token.shape == (1, 768)
    assert np.linalg.norm(token) == pytest.approx(1, abs=1e-5)
    assert (token == encode_instruction(TEXT.lower(), TINY)).all()
    assert abs(float(token[0] @ encode_instruction("Open the drawer", TINY)[0])) < 0.5
    assert token[0, :3] == pytest.approx([-0.001380, 0.003564, -0.016933], abs=1e-5), "differs from other machines"
    assert encode_instruction(TEXT, preset("small")).shape == (16, 768)
    with pytest.raises(InputError, match="instruction is empty"):
        encode_instruction("  ", TINY)


def test_the_stand_in_has_the_width_that_the_policy_takes():
    settings = replace(TINY, octo=replace(TINY.octo, language_dim=32, language_tokens=4))
    tokens = encode_instruction("put the cube", settings)
    assert tokens.shape == (4, 32)
    assert np.linalg.norm(tokens, axis=1) == pytest.approx([1, 1, 1, 0], abs=1e-5)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A folder as transformers writes it: a T5 of width 64 and a tokenizer of eight words."""
    # here, because it takes seconds in every process that collects
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5")
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=16
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(vocab_size=8, d_model=64, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0)
    T5EncoderModel(config).save_pretrained(folder)
    return folder


def with_t5(folder, tokens):
    return PolicySettings(octo=OctoSettings(language_dim=64, language_tokens=tokens), language_folder=str(folder))


def test_t5_encodes_and_its_padding_does_not_look(t5):
    long, short = (encode_instruction("put the cube", with_t5(t5, tokens)) for tokens in (16, 6))
    assert long.shape == (16, 64) and short.shape == (6, 64)
    assert np.abs(long[:4] - short[:4]).max() < 1e-5, "words see no padding"
    assert np.abs(long[:4] - encode_instruction("on the disc", with_t5(t5, 16))[:4]).max() > 0.1
    pooled = encode_instruction("put the cube", with_t5(t5, 1))
    assert np.abs(pooled[0] - long[:4].mean(0)).max() < 1e-5, "a single token is the mean over the sentence"


def test_an_imported_policy_brings_its_own_t5(t5, tmp_path):
    octo = OctoSettings(language_dim=64, language_tokens=6, dim=32, layers=1)
    policy = Policy(PolicySettings(octo=octo, language_folder="language"))
    save_policy(tmp_path / "imported", policy)
    shutil.copytree(t5, tmp_path / "imported" / "language")
    loaded = load_policy(tmp_path / "imported")
    wanted = encode_instruction("put the cube", with_t5(t5, 6))
    assert (encode_instruction("put the cube", loaded.settings) == wanted).all()


def test_a_t5_of_another_width_is_refused(t5):
    with pytest.raises(InputError, match=r"64 numbers a token.*language_dim=768"):
        encode_instruction(TEXT, PolicySettings(language_folder=str(t5)))


def test_unusable_t5_folders_are_named(t5, tmp_path):
    settings = PolicySettings(language_folder=str(tmp_path / "t5"))
    with pytest.raises(InputError, match="no such folder on this machine"):
        encode_instruction(TEXT, settings)
    (tmp_path / "t5").mkdir()
    with pytest.raises(InputError, match="no tokenizer"):
        encode_instruction(TEXT, settings)
    shutil.copytree(t5, tmp_path / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(InputError, match=r"no tokenizer in it, neither tokenizer\.json nor spiece\.model"):
        encode_instruction(TEXT, with_t5(tmp_path / "mute", 16))
    shutil.copytree(t5, tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="not a T5 folder"):
        encode_instruction(TEXT, with_t5(tmp_path / "half", 16))


def test_a_t5_folder_that_lacks_weights_is_not_filled_up_with_random_ones(t5, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(t5, tmp_path / "half")
    file = tmp_path / "half" / "model.safetensors"
    tensors = load_file(file)
    some = {name: tensor for name, tensor in tensors.items() if "block.1" not in name}
    save_file(some, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"its weights lack \d+ tensors of a T5 encoder, first 'encoder\.block\.1"):
        encode_instruction(TEXT, with_t5(tmp_path / "half", 16))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match="not a T5 folder"):
        encode_instruction(TEXT, with_t5(tmp_path / "half", 6))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"d_model": 10**9}, "promises .* numbers in 2 layers, its safetensors files have"),
        ({"num_layers": 10**9}, "promises"),
        ({"d_ff": "large"}, r"config\.json has no sizes \(ValueError"),
        ({"num_heads": None}, r"config\.json has no sizes \(TypeError"),
        ({"relative_attention_num_buckets": 0}, "not a T5 folder"),
        ({"relative_attention_max_distance": -1}, "not a T5 folder"),
    ],
)
def test_a_config_that_is_not_of_the_weights_is_refused_before_memory_is_taken(t5, tmp_path, changed, line):
    shutil.copytree(t5, tmp_path / "odd")
    file = tmp_path / "odd" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(InputError, match=line):
        encode_instruction(TEXT, with_t5(tmp_path / "odd", 6))
