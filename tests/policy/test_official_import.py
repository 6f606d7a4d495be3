"""These tests check `twinrl import-octo`, which turns an official folder into a policy folder that acts."""

import json

import numpy as np
import pytest
import torch
from official_files import small_checkpoint
from parity_files import SIZES, WORDS, model_config, modules, official_params

from policy.checkpoint import load, load_policy
from policy.language import encode_instruction
from policy.octo.official.checkpoint import read_checkpoint
from policy.octo.official.policy import imported_policy, resized_positions
from protos.errors import CorruptData, InputError
from twinrl.commands.import_octo import main

STATISTICS = {
    "kitchen": {
        "action": {
            "mean": [0.5, 0.0, 1.0, 0.0, 2.0],
            "std": [2.0, 0.0, 1.0, 3.0, 1.0],
            "mask": [True, True, True, True, False],
        },
        "num_transitions": 12,
    }
}


@pytest.fixture
def official(tmp_path):
    return small_checkpoint(tmp_path / "official", statistics=STATISTICS)


def save_tokenizer(folder, words=20):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"word{i}": i for i in range(3, words)}}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    return folder


def test_an_imported_policy_gives_what_the_original_gives(official, tmp_path, capsys):
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    assert main([str(official), "--out", str(tmp_path / "policy"), "--tokenizer", str(tokenizer)]) == 0
    text = capsys.readouterr().out
    assert "step 300" in text
    assert "kitchen" in text
    assert "missing" not in text
    policy = load_policy(tmp_path / "policy").eval()
    octo, head, encoder = modules()
    assert policy.settings.octo == SIZES
    language = torch.tensor(encode_instruction("word3 word7", policy.settings))[None]
    ids, padding = torch.tensor([[3, 7, 0, 0, 0, 0]]), torch.tensor([[1, 1, 0, 0, 0, 0]])
    generator = torch.Generator().manual_seed(0)
    side, wrist = (torch.randint(0, 256, (1, 3, px, px, 3), dtype=torch.uint8, generator=generator) for px in (48, 32))
    noise = torch.randn(1, head.chunk)
    with torch.no_grad():
        words = encoder(input_ids=ids, attention_mask=padding).last_hidden_state
        assert (language - words).abs().max() < 1e-6
        embedding = octo(side, wrist, words)
        features = policy.features(policy.embed(side, wrist, language), torch.zeros(1, 25))
        assert (features - embedding).abs().max() < 1e-6
        torch.manual_seed(5)
        mine = policy.sample(features, noise=noise)
        torch.manual_seed(5)
        theirs = head.sample(embedding, noise=noise)[:, 0]
    wanted = theirs * torch.tensor([2.0, 1e-8, 1.0, 3.0, 1.0]) + torch.tensor([0.5, 0.0, 1.0, 0.0, 0.0])
    assert (policy.to_wire(mine)[:, :5] - wanted).abs().max() < 1e-4
    manifest = load(tmp_path / "policy")[1]
    assert manifest["octo"] == {"folder": "official", "step": 300, "statistics": STATISTICS}


def test_what_a_checkpoint_does_not_hold_is_said(tmp_path, capsys):
    two = {"kitchen": STATISTICS["kitchen"], "lab": STATISTICS["kitchen"]}
    folder = small_checkpoint(tmp_path / "official", statistics=two)
    assert main([str(folder), "--out", str(tmp_path / "policy")]) == 0
    text = capsys.readouterr().out
    assert "missing: the tokenizer" in text
    assert "missing: actions stay normalized; choose a dataset with --dataset" in text
    assert load_policy(tmp_path / "policy").settings.action_units is None
    with pytest.raises(InputError, match="no such folder"):
        encode_instruction("word3", load_policy(tmp_path / "policy").settings)
    assert main([str(folder), "--out", str(tmp_path / "lab"), "--dataset", "lab"]) == 0
    assert load_policy(tmp_path / "lab").settings.action_units.scale[0] == 2.0
    with pytest.raises(InputError, match=r"dataset 'house': the checkpoint has statistics of kitchen, lab"):
        main([str(folder), "--out", str(tmp_path / "house"), "--dataset", "house"])
    with pytest.raises(InputError, match="holds a policy already"):
        main([str(folder), "--out", str(tmp_path / "policy")])


def test_statistics_without_a_dataset_name_are_those_of_fine_tuning(tmp_path):
    folder = small_checkpoint(tmp_path / "official", statistics=STATISTICS["kitchen"])
    assert imported_policy(read_checkpoint(folder)).settings.action_units.offset == (0.5, 0.0, 1.0, 0.0, 0.0)
    short = {"kitchen": {"action": {"mean": [0.0], "std": [1.0]}}}
    folder = small_checkpoint(tmp_path / "short", statistics=short)
    with pytest.raises(CorruptData, match=r"statistics of 'kitchen': action\.mean=\[0\.0\], 5 numbers expected"):
        imported_policy(read_checkpoint(folder))


def test_a_tokenizer_with_more_words_than_the_encoder_is_refused(official, tmp_path):
    tokenizer = save_tokenizer(tmp_path / "tokenizer", words=WORDS + 1)
    with pytest.raises(InputError, match=rf"{WORDS + 1} words, the language encoder has {WORDS}"):
        main([str(official), "--out", str(tmp_path / "policy"), "--tokenizer", str(tokenizer)])
    with pytest.raises(InputError, match=r"none: no tokenizer in it, neither tokenizer\.json nor spiece"):
        main([str(official), "--out", str(tmp_path / "policy"), "--tokenizer", str(tmp_path / "none")])
    assert not (tmp_path / "policy").exists()


def test_a_tokenizer_that_cannot_cut_a_sentence_is_refused_before_anything_is_written(official, tmp_path):
    given = [str(official), "--out", str(tmp_path / "policy"), "--tokenizer", str(tmp_path / "tokenizer")]
    file = save_tokenizer(tmp_path / "tokenizer") / "tokenizer.json"
    whole = file.read_text()
    for damaged, line in (("{", "no tokenizer that can be read"), (json.dumps({"model": 3}), "that can be read")):
        file.write_text(damaged)
        with pytest.raises(InputError, match=rf"^--tokenizer \S+: .*{line}"):
            main(given)
    dumb = json.loads(whole)
    dumb["normalizer"] = {"type": "Replace", "pattern": {"Regex": ".+"}, "content": "x"}
    file.write_text(json.dumps(dumb))
    with pytest.raises(InputError, match="cuts every word into the same tokens"):
        main(given)
    file.write_text(whole)
    (tmp_path / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match=r"no padding token.* put tokenizer_config\.json beside it: hf download"):
        main(given)
    file.write_text("version https://git-lfs.github.com/spec/v1\nsize 12\n")
    with pytest.raises(InputError, match=r"tokenizer\.json: a Git LFS pointer"):
        main(given)
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda leaf: np.full_like(leaf, np.nan), "readout of a trial image is not finite"),
        (np.zeros_like, "readout is the same for every image"),
    ],
)
def test_a_checkpoint_is_tried_before_it_is_written(change, line, tmp_path):
    params = official_params(*modules())
    changed = {path: change(leaf) if "obs_primary_projection" in path else leaf for path, leaf in params.items()}
    if "same" in line:
        changed |= {path: change(leaf) for path, leaf in params.items() if "obs_wrist_projection" in path}
    folder = small_checkpoint(tmp_path / "official", params=changed, statistics=STATISTICS)
    with pytest.raises(CorruptData, match=line):
        main([str(folder), "--out", str(tmp_path / "policy")])
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize(
    ("std", "line"),
    [
        ([1.0, float("nan"), 1.0, 1.0, 1.0], "finite numbers expected"),
        ([1.0, "2", 1.0, 1.0, 1.0], "finite numbers expected"),
        ([1.0, -1.0, 1.0, 1.0, 1.0], "from 0 up"),
        ([0.0] * 5, "not all 0"),
    ],
)
def test_statistics_that_no_data_have_are_refused(std, line, tmp_path):
    statistics = {"kitchen": {"action": {"mean": [0.0] * 5, "std": std}}}
    folder = small_checkpoint(tmp_path / "official", statistics=statistics)
    with pytest.raises(CorruptData, match=line):
        main([str(folder), "--out", str(tmp_path / "policy")])


@pytest.mark.parametrize("statistics", [{"action": [1]}, {"kitchen": {"action": "x"}}, {"kitchen": 3}, {"action": 5}])
def test_statistics_of_another_form_are_none(statistics, tmp_path):
    folder = small_checkpoint(tmp_path / "official", statistics=statistics)
    assert imported_policy(read_checkpoint(folder)).settings.action_units is None


def test_other_image_sizes_interpolate_the_positions(official, tmp_path):
    checkpoint = read_checkpoint(official)
    policy = imported_policy(checkpoint, side_px=96)
    plain = imported_policy(checkpoint)
    assert policy.settings.octo.side_px == 96
    assert policy.octo.positions["side"].shape == (5, 36, 24)
    assert torch.equal(policy.octo.positions["wrist"], plain.octo.positions["wrist"])
    with torch.no_grad():
        embedding = policy.embed(*(torch.zeros(1, 3, px, px, 3) for px in (96, 32)), torch.zeros(1, 6, 28))
    assert embedding.shape == (1, 24)
    with pytest.raises(InputError, match="side_px=100: must be a multiple of 16"):
        imported_policy(checkpoint, side_px=100)


def test_interpolation_is_bicubic_on_the_grid():
    """A plane over the grid stays that plane, away from the border; other time steps and channels keep out of it."""
    line = torch.arange(8.0)
    plane = (2 * line[:, None] - line[None, :]).flatten()
    positions = torch.zeros(2, 64, 3)
    positions[1, :, 2] = plane
    bigger = resized_positions(positions, 256)
    fine = (torch.arange(16.0) + 0.5) / 2 - 0.5
    wanted = 2 * fine[:, None] - fine[None, :]
    assert (bigger[1, :, 2].view(16, 16) - wanted)[4:-4, 4:-4].abs().max() < 1e-5
    assert bigger[0].abs().max() == bigger[1, :, :2].abs().max() == 0
    assert resized_positions(positions, 64) is positions


def test_a_regression_head_is_imported(tmp_path):
    octo, head, encoder = modules()
    config = json.loads(json.dumps(model_config()))
    config["model"]["heads"]["action"]["name"] = "L1ActionHead"
    config["model"]["heads"]["action"]["kwargs"] = {
        "readout_key": "readout_action",
        "use_map": False,
        "action_horizon": 2,
        "action_dim": 5,
    }
    params = {path: leaf for path, leaf in official_params(octo, head, encoder).items() if "heads_action" not in path}
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(24, 10)).astype(np.float32)
    params |= {"heads_action/mean_proj/kernel": kernel, "heads_action/mean_proj/bias": np.zeros(10, np.float32)}
    folder = small_checkpoint(tmp_path / "l1", params=params, config=config)
    policy = imported_policy(read_checkpoint(folder))
    assert (policy.settings.action_head, policy.action_horizon) == ("l1", 2)
    assert np.array_equal(policy.head.mean.weight.detach().numpy(), kernel.T)
