"""These tests map official checkpoints to our tensors, bit-equal, and refuse those that do not fit with a reason."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from official_files import small_checkpoint
from parity_files import HEAD, SIZES, model_config, modules, official_params

from policy.heads import DiffusionHead
from policy.octo.model import Octo
from policy.octo.official.checkpoint import check_all_used, head_state, octo_state, read_checkpoint
from policy.octo.official.config import head_settings, octo_settings
from policy.octo.official.names import T5, diffusion_rules, octo_rules, t5_rules, to_official
from policy.octo.official.policy import build_t5, t5_config
from protos.errors import CorruptData, InputError

DATA = Path(os.environ.get("TWINRL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")) / "octo"


def shared(name):
    if not (DATA / name).exists():
        pytest.skip(f"no {DATA / name}; set TWINRL_SHARED_DATA to the folder of shared test data")
    return DATA / name


def numbers(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_tiny_checkpoint_loads_bit_equal():
    checkpoint = read_checkpoint(shared("octo_tiny_ckpt"))
    with np.load(shared("octo_parity_public.npz")) as file:
        wanted = {name.removeprefix("params/"): file[name] for name in file.files if name.startswith("params/")}
    assert checkpoint.step == 300_000
    assert {path: leaf.tobytes() for path, leaf in checkpoint.params.items()} == {
        path: leaf.tobytes() for path, leaf in wanted.items()
    }
    settings = octo_settings(checkpoint.config, checkpoint.params)
    kind, sizes = head_settings(checkpoint.config, settings.readout_tokens)
    assert (kind, settings.side_px, settings.wrist_px, settings.language_dim) == ("diffusion", 64, 32, 768)
    octo, head = Octo(settings), DiffusionHead(settings.dim, sizes)
    octo.load_state_dict(octo_state(checkpoint.params, settings))
    head.load_state_dict(head_state(checkpoint.params, head.state_dict()))
    encoder = build_t5(checkpoint.params)
    back = to_official(octo.state_dict(), octo_rules(settings))
    back |= to_official(head.state_dict(), diffusion_rules(sizes.blocks))
    back |= to_official(dict(encoder.named_parameters()), t5_rules(encoder.config.num_layers))
    assert back.keys() == wanted.keys()
    assert all(np.array_equal(back[path], wanted[path]) for path in wanted)
    assert checkpoint.example["observation"]["timestep_pad_mask"].shape == (3, 2)
    assert list(checkpoint.statistics) == ["bridge_dataset"]


@pytest.mark.parametrize(("name", "count"), [("small", 27_042_060), ("base", 92_830_092)])
def test_the_released_models_map_one_to_one(name, count):
    record = json.loads(shared(f"octo_{name}_1.5_params.json").read_text())
    leaves = {leaf["path"]: SimpleNamespace(shape=tuple(leaf["shape"])) for leaf in record["params"]}
    assert len(leaves) == 366
    settings = octo_settings({"model": record["config"], "window_size": 2}, leaves)
    assert (settings.side_px, settings.wrist_px, settings.language_tokens) == (256, 128, 16)
    kind, sizes = head_settings({"model": record["config"]}, settings.readout_tokens)
    assert (kind, sizes.hidden, sizes.steps) == ("diffusion", 256, 20)
    check_all_used(leaves, settings)
    with torch.device("meta"):
        octo, head = Octo(settings), DiffusionHead(settings.dim, sizes)
        from transformers import T5EncoderModel

        encoder = T5EncoderModel(t5_config(leaves))
    assert numbers(octo) + numbers(head) == count == record["n_params_without_t5"]
    assert numbers(encoder) == 109_628_544
    rules = [(octo.state_dict(), octo_rules(settings)), (head.state_dict(), diffusion_rules(sizes.blocks))]
    rules.append((dict(encoder.named_parameters()), t5_rules(12)))
    for tensors, of_module in rules:
        assert sorted(rule.name for rule in of_module) == sorted(tensors)
        for rule in of_module:
            back = rule.to_official(np.empty(tuple(tensors[rule.name].shape), np.bool_))
            assert [leaf.shape for leaf in back] == [leaves[path].shape for path in rule.paths]


def test_there_and_back_changes_nothing():
    octo, head, encoder = modules()
    params = official_params(octo, head, encoder)
    state = octo_state(params, SIZES)
    assert all(torch.equal(tensor, state[name]) for name, tensor in octo.state_dict().items())
    heads = head_state(params, head.state_dict())
    assert all(torch.equal(tensor, heads[name]) for name, tensor in head.state_dict().items())
    ids, padding = torch.randint(0, 37, (2, 6)), torch.ones(2, 6, dtype=torch.long)
    with torch.no_grad():
        wanted, found = (model(input_ids=ids, attention_mask=padding)[0] for model in (encoder, build_t5(params)))
    assert torch.equal(wanted, found)


@pytest.mark.parametrize(
    ("path", "leaf", "message"),
    [
        ("octo_transformer/obs_wrist_projection/kernel", None, "no parameter 'octo_transformer/obs_wrist_projection"),
        ("octo_transformer/obs_wrist_projection/bias", np.zeros(7), r"is of shape \(7,\), \(24,\) expected"),
        (
            "octo_transformer/obs_wrist_projection/scale",
            np.zeros(7),
            "do not map one to one, first .*wrist_projection/",
        ),
        (f"{T5}encoder/block/0/layer/1/DenseReluDense/wi/kernel", None, "first .*DenseReluDense/wi/kernel"),
    ],
)
def test_a_leaf_too_many_or_too_few_or_of_another_shape_is_named(path, leaf, message):
    params = official_params(*modules())
    params.pop(path, None)
    if leaf is not None:
        params[path] = leaf
    with pytest.raises(CorruptData, match=message):
        octo_state(params, SIZES)
        check_all_used(params, SIZES)


def test_another_number_of_heads_is_not_loaded_by_accident():
    """The kernels would fit after flattening."""
    with pytest.raises(CorruptData, match=r"query/kernel' is of shape \(24, 3, 8\), \(24, 2, 12\) expected"):
        octo_state(official_params(*modules()), replace(SIZES, heads=2))


def test_what_octo_1_0_leaves_out_is_off():
    config = model_config()
    for flag in ("repeat_task_tokens", "use_correct_attention"):
        del config["model"][flag]
    settings = octo_settings(config, official_params(*modules()))
    assert not settings.repeat_language
    assert not settings.correct_attention
    assert octo_settings(model_config(), official_params(*modules())) == SIZES


def test_old_names_are_read(tmp_path):
    config = model_config()
    kwargs = config["model"]["heads"]["action"]["kwargs"]
    kwargs["pred_horizon"] = kwargs.pop("action_horizon")
    checkpoint = read_checkpoint(small_checkpoint(tmp_path / "old", config=config))
    assert head_settings(checkpoint.config, 2) == ("diffusion", HEAD)


def test_class_defaults_stand_for_what_is_not_written(tmp_path):
    config = model_config()
    config["model"]["heads"]["action"]["kwargs"] = {"readout_key": "readout_action"}
    _, sizes = head_settings(config, 1)
    assert (sizes.action_horizon, sizes.hidden, sizes.blocks, sizes.time_dim, sizes.steps) == (1, 256, 3, 32, 20)
    config["model"]["heads"]["action"].update(name="L1ActionHead")
    kind, sizes = head_settings(config, 1)
    assert (kind, sizes.use_map, sizes.max_action) == ("l1", True, 5.0)
    with pytest.raises(InputError, match="use_map=True: not supported over 2 readout tokens"):
        head_settings(config, 2)


def set_at(*path, value):
    def change(config):
        place = config["model"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


STEM = ("observation_tokenizers", "wrist", "kwargs", "encoder", "kwargs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_at("transformer_kwargs", "add_position_embedding", value=True), "add_position_embedding=True.*only False"),
        (set_at("transformer_kwargs", "num_layers", value="3"), r"octo\.layers='3': expected int"),
        (set_at("readouts", value={"action": 1, "value": 1}), "only one readout, 'action'"),
        (set_at("new_flag", value=1), r"model\.new_flag=1: not supported"),
        (set_at("observation_tokenizers", "proprio", value={}), r"\['primary', 'wrist', 'proprio'\]"),
        (set_at("observation_tokenizers", "wrist", "args", value=[1]), "positional arguments"),
        (set_at(*STEM, "use_film", value=True), "use_film=True: not supported, only False"),
        (set_at(*STEM, "features", value=[32, 32, 32, 32]), "stems that differ between the cameras"),
        (set_at(*STEM[:-1], "name", value="ResNet26FILM"), "encoder='ResNet26FILM': SmallStem16"),
        (set_at("observation_tokenizers", "wrist", "kwargs", "task_film_keys", value=["language"]), "task_film_keys"),
        (set_at("task_tokenizers", value={}), r"task_tokenizers=\[\]"),
        (set_at("task_tokenizers", "language", "kwargs", "encoder", value="clip"), "with a T5 encoder"),
        (set_at("heads", "action", "kwargs", "use_map", value=True), "use_map=True: not supported"),
        (set_at("heads", "action", "name", value="UNetDDPMActionHead"), "choose one of DiffusionActionHead"),
        (set_at("token_embedding_size", value=25), r"octo\.dim=25: must be a multiple"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(change, message):
    config = json.loads(json.dumps(model_config()))
    change(config)
    with pytest.raises((InputError, CorruptData), match=message):
        octo_settings(config, official_params(*modules()))
        head_settings(config, 1)
