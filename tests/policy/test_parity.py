"""These tests run `python -m policy.octo.parity` on the public file of the original's numbers and on other sizes."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from parity_files import reference_arrays

from policy.octo.parity.__main__ import main

DATA = Path(os.environ.get("TWINRL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
PUBLIC = DATA / "octo" / "octo_parity_public.npz"
CASES = ("full", "lang_only", "no_wrist", "goal_only", "window1", "v10")


@pytest.fixture(scope="module")
def other_sizes():
    return reference_arrays()


def compare(path, capsys):
    code = main([str(path)])
    return code, capsys.readouterr()


def written(tmp_path, arrays):
    path = tmp_path / "file.npz"
    np.savez(path, **arrays)
    return path


def test_all_six_cases_of_the_original(capsys):
    if not PUBLIC.exists():
        pytest.skip(f"no {PUBLIC}; set TWINRL_SHARED_DATA to the folder of shared test data")
    code, text = compare(PUBLIC, capsys)
    assert code == 0, text.out
    rows = [re.split(r"\s{2,}", line) for line in text.out.splitlines()]
    table = {(row[0], row[1]): (int(row[2]), float(row[3])) for row in rows[1:] if len(row) == 6}
    assert {case for case, _ in table} == {"all", *CASES}
    for case in CASES:
        assert table[case, "masks"] == (max(table[case, "masks"][0], 7), 0.0)
        for what in ("image tokens", "outputs", "score network", "samples"):
            assert table[case, what][1] <= 1e-4
    limits = {"T5 output": 1e-4, "stems": 1e-4, "projections": 1e-4, "blocks": 1e-4, "other heads": 1e-4}
    for what, limit in {**limits, "losses": 1e-5, "gradient norms": 1e-3, "gradients": 1e-3}.items():
        assert table["full", what][1] <= limit, what
    assert table["full", "gradient norms"][0] == 126
    assert table["full", "gradients"][0] == 4
    assert "not compared" not in text.out


def test_a_file_of_other_sizes_passes(tmp_path, other_sizes, capsys):
    code, text = compare(written(tmp_path, other_sizes), capsys)
    assert code == 0, text.out
    for what in (
        "masks",
        "T5 output",
        "stems",
        "blocks",
        "outputs",
        "score network",
        "samples",
        "other heads",
        "losses",
    ):
        assert re.search(rf"^whole +{what} +[1-9].* yes$", text.out, re.M), what
    assert "not compared" not in text.out


@pytest.mark.parametrize(
    "name",
    [
        "out/readout_action/tokens",
        "mid/attention_mask",
        "mid/encoderblock_2/MlpBlock_0",
        "mid/observation_tokenizers_wrist/SmallStem16_0/StdConv_1[frame0]",
        "mid/task_tokenizers_language/tokens",
        "head_action/out/eps",
        "head_action/sample/actions",
        "head_action/loss/loss",
        "grad/norm/octo_transformer/obs_wrist_projection/kernel",
        "grad/norm/octo_transformer/task_tokenizers_language/hf_model/shared/embedding",
        "grad/full/octo_transformer/readout_action_pos_embedding",
        "aux_heads/l1_mean/out",
    ],
)
def test_a_wrong_number_is_found(name, tmp_path, other_sizes, capsys):
    key = f"whole/{name}"
    wrong = other_sizes[key].copy()
    position = wrong.shape and tuple(size - 1 for size in wrong.shape)
    wrong[position] = (
        ~wrong[position] if wrong.dtype == bool else wrong[position] + max(0.01 * abs(wrong[position]), 1e-3)
    )
    code, text = compare(written(tmp_path, {**other_sizes, key: wrong}), capsys)
    assert code == 1
    assert "NO: " in text.out
    assert "NOT within their limits" in text.out


def test_not_a_number_and_another_shape_are_found(tmp_path, other_sizes, capsys):
    key = "whole/out/obs_wrist/tokens"
    for wrong in (np.full_like(other_sizes[key], np.nan), other_sizes[key][:, :2]):
        code, text = compare(written(tmp_path, {**other_sizes, key: wrong}), capsys)
        assert code == 1
        assert re.search(r"whole +outputs .* inf ", text.out)


def test_a_file_with_nothing_to_compare_is_no_success(tmp_path, other_sizes, capsys):
    arrays = {name: array for name, array in other_sizes.items() if not name.startswith("whole/")}
    assert compare(written(tmp_path, arrays), capsys)[0] == 1
    inputs_only = {
        name: array for name, array in other_sizes.items() if name.startswith(("params", "config", "whole/in/"))
    }
    code, text = compare(written(tmp_path, inputs_only), capsys)
    assert code == 1
    assert "0 arrays compared" in text.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("params/octo_transformer/obs_wrist_projection/bias"), "obs_wrist_projection/bias"),
        (lambda a: a.update({"params/heads_action/extra": np.zeros(1)}), "heads_action/extra"),
        (lambda a: a.pop("config_json"), "holds no 'config_json'"),
        (lambda a: a.update(config_json=np.array("{")), "not JSON"),
        (lambda a: a.update(config_json=np.array("[]")), "has no 'model'"),
    ],
)
def test_a_file_that_cannot_be_compared_says_why(change, message, tmp_path, other_sizes, capsys):
    arrays = dict(other_sizes)
    change(arrays)
    code, text = compare(written(tmp_path, arrays), capsys)
    assert code == 2
    assert message in text.err


def test_no_file_and_no_npz(tmp_path, capsys):
    assert compare(tmp_path / "none.npz", capsys)[0] == 2
    (tmp_path / "text.npz").write_text("hello")
    code, text = compare(tmp_path / "text.npz", capsys)
    assert code == 2
    assert "not an npz file" in text.err
