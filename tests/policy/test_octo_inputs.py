"""These tests check Octo's inputs: goals, masks, missing cameras and instructions, short windows, several readouts."""

from dataclasses import replace

import pytest
import torch
from octo_inputs import make_inputs, make_octo, readout

from policy.octo.model import CameraMask, Goals, OctoInputs
from protos.errors import InputError

MASKS = {
    "nothing padded": {},
    "a padded step": {"timestep_mask": torch.tensor([[False, True], [True, True]])},
    "a missing image": {"camera_mask": CameraMask(wrist=torch.tensor([[True, False], [True, True]]))},
    "no instruction in one row": {"language_mask": torch.tensor([False, True])},
    "no wrist camera": {"wrist": None},
    "no language": {"language": None},
    "no goal": {"goals": Goals()},
}


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("given", MASKS.values(), ids=MASKS)
def test_the_shortcut_equals_the_whole_output(given, correct, tokens):
    octo = make_octo(readout_tokens=tokens, correct_attention=correct)
    inputs = make_inputs(octo, **given)
    full = octo.outputs(inputs)["readout_action"]
    assert full.tokens.shape == (2, 2, tokens, 32)
    assert full.mask.all()
    assert (readout(octo, inputs) - full.tokens[:, -1].mean(1)).abs().max() < 1e-5


@torch.no_grad()
def test_every_group_comes_out_under_its_name_with_its_mask():
    octo = make_octo()
    outputs = octo.outputs(make_inputs(octo, **MASKS["a padded step"], **MASKS["no instruction in one row"]))
    assert {name: tuple(group.mask.shape) for name, group in outputs.items()} == {
        "task_language": (2, 3),
        "obs_side": (2, 2, 9),
        "obs_wrist": (2, 2, 4),
        "obs_task_language": (2, 2, 3),
        "readout_action": (2, 2, 1),
    }
    assert outputs["obs_side"].mask.all(2).tolist() == [[False, True], [True, True]]
    assert outputs["obs_task_language"].mask.flatten(1).all(1).tolist() == [False, True]  # padding of steps is not its
    assert all(group.tokens.shape[:-1] == group.mask.shape for group in outputs.values())
    assert all(group.tokens.isfinite().all() for group in outputs.values())


@torch.no_grad()
def test_a_masked_image_does_not_reach_the_readout():
    octo = make_octo()
    for given in (
        MASKS["a padded step"],
        {"camera_mask": CameraMask(side=torch.tensor([[False, True], [True, True]]))},
    ):
        inputs = make_inputs(octo, **given)
        before = readout(octo, inputs)
        side = inputs.side.clone()
        side[:, 0] = 0
        after = readout(octo, replace(inputs, side=side))
        assert before[0].allclose(after[0], atol=1e-6)
        assert not before[1].allclose(after[1], atol=1e-4)


@torch.no_grad()
def test_masked_language_does_not_reach_the_readout():
    octo = make_octo()
    inputs = make_inputs(octo, language_mask=torch.tensor([False, True]))
    before, after = readout(octo, inputs), readout(octo, replace(inputs, language=-inputs.language))
    assert before[0].allclose(after[0], atol=1e-6)
    assert not before[1].allclose(after[1], atol=1e-4)


@torch.no_grad()
def test_past_goal_and_language_matter():
    octo = make_octo()
    inputs = make_inputs(octo)
    base = readout(octo, inputs)
    assert base.shape == (2, 32)
    for changed in (
        replace(inputs, side=inputs.side.flip(1)),
        replace(inputs, language=-inputs.language),
        replace(inputs, goals=Goals(side=inputs.goals.side)),
        replace(inputs, goals=Goals(wrist=inputs.goals.wrist)),
    ):
        assert not base.allclose(readout(octo, changed), atol=1e-4)


@torch.no_grad()
def test_a_missing_goal_is_a_black_image():
    octo = make_octo()
    inputs = make_inputs(octo, goals=Goals())
    black = Goals(side=torch.zeros_like(inputs.side[:, 0]), wrist=torch.zeros_like(inputs.wrist[:, 0]))
    assert torch.equal(readout(octo, inputs), readout(octo, replace(inputs, goals=black)))


@torch.no_grad()
def test_a_shorter_window_is_the_beginning_of_a_longer_one():
    """Later steps change nothing before them, and positions count from the first step."""
    octo = make_octo()
    inputs = make_inputs(octo, steps=3)
    one = replace(inputs, side=inputs.side[:, :1], wrist=inputs.wrist[:, :1])
    whole = octo.outputs(inputs)["readout_action"].tokens
    assert (readout(octo, one) - whole[:, 0, 0]).abs().max() < 1e-5
    with pytest.raises(InputError, match=r"4 time steps.*max_horizon=3"):
        readout(octo, make_inputs(octo, steps=4))


def test_a_mask_made_while_acting_serves_training():
    octo = make_octo()
    inputs = make_inputs(octo)
    with torch.inference_mode():
        acted = readout(octo, inputs)
    trained = readout(octo, inputs)
    projection = torch.randn(trained.shape, generator=torch.Generator().manual_seed(1))  # a LayerNorm's sum is constant
    (trained * projection).sum().backward()
    assert trained.detach().allclose(acted.clone(), atol=1e-5)
    assert octo.positions["readout"].grad.norm() > 1e-2


def test_bfloat16_survives_a_row_without_instruction():
    octo = make_octo()
    inputs = make_inputs(octo, **MASKS["no instruction in one row"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = octo.outputs(inputs)
    assert all(group.tokens.isfinite().all() for group in outputs.values())


def test_what_cannot_be_seen_is_refused():
    octo = make_octo(goal_images=False)
    with pytest.raises(InputError, match=r"octo\.goal_images=False"):
        readout(octo, make_inputs(octo))
    with pytest.raises(InputError, match="without images"):
        octo.outputs(OctoInputs(language=torch.zeros(1, 3, 20)))
