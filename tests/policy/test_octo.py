"""Octo: who sees whom, the readout shortcut, the tokenizers, the size of the presets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.octo.attention import TokenGroup, additive, allowed_keys, picture_times, visible_keys
from policy.octo.model import Octo
from policy.octo.settings import OctoSettings
from policy.octo.tokenizers import ImageTokenizer, StandardizedConv
from policy.octo.transformer import Transformer
from policy.presets import preset
from protos.errors import InputError

GROUPS = st.lists(
    st.tuples(st.sampled_from(["obs", "readout"]), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=8
)


def reference_mask(groups):
    """The rule written out token by token."""
    tokens = [group for group in groups for _ in range(group.tokens)]
    may = {"task": {"task"}, "obs": {"task", "obs"}, "readout": {"task", "obs", "readout"}}
    return np.array([[k.kind in may[q.kind] and k.time <= q.time for k in tokens] for q in tokens])


@settings(deadline=None)
@given(GROUPS)
def test_mask_equals_the_rule_token_by_token(drawn):
    groups = [TokenGroup(kind="task", time=-1, tokens=2)]
    groups += [TokenGroup(kind=kind, time=time, tokens=count) for kind, time, count in drawn]
    assert (allowed_keys(groups).numpy() == reference_mask(groups)).all()


def test_padding_hides_pictures_of_that_step_and_nothing_else():
    groups = [
        TokenGroup(kind="task", time=-1, tokens=1),
        TokenGroup(kind="obs", time=0, tokens=2, picture=True),
        TokenGroup(kind="obs", time=0, tokens=1),
        TokenGroup(kind="readout", time=0, tokens=1),
        TokenGroup(kind="obs", time=1, tokens=2, picture=True),
        TokenGroup(kind="readout", time=1, tokens=1),
    ]
    visible = visible_keys(picture_times(groups), torch.tensor([[False, True], [True, True]]))
    assert visible.tolist() == [[True, False, False, True, True, True, True, True], [True] * 8]


def test_a_row_that_sees_nothing_stays_finite():
    mask = additive(torch.zeros(1, 3, dtype=torch.bool), torch.float32)
    assert torch.softmax(mask, -1).allclose(torch.full((1, 3), 1 / 3))


@pytest.mark.parametrize("rows", [1, 3])
def test_last_rows_alone_equal_the_full_result(rows):
    torch.manual_seed(0)
    net = Transformer(dim=32, layers=3, heads=4, mlp_dim=64)
    x = torch.randn(2, 11, 32)
    mask = additive(torch.rand(11, 11) > 0.3, torch.float32)
    assert (net(x, mask, rows) - net(x, mask, 11)[:, -rows:]).abs().max() < 1e-5


def paper_layout():
    """Octo's layout at toy size."""
    return OctoSettings(
        side_px=32,
        wrist_px=16,
        dim=32,
        layers=2,
        heads=2,
        mlp_dim=32,
        window=2,
        max_horizon=3,
        stem="small_stem",
        goal_images=True,
        language_tokens=3,
        repeat_language=True,
    )


def inputs(settings, n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    side, wrist = (
        torch.randint(0, 256, (n, settings.window, px, px, 3), dtype=torch.uint8, generator=generator)
        for px in (settings.side_px, settings.wrist_px)
    )
    return side, wrist, torch.randn(n, settings.language_tokens, 768, generator=generator)


@torch.no_grad()
def test_padded_step_does_not_reach_the_readout():
    torch.manual_seed(0)
    octo = Octo(paper_layout())
    side, wrist, language = inputs(octo.settings)
    mask = torch.tensor([[False, True], [True, True]])
    before = octo(side, wrist, language, mask)
    side[:, 0] = 0
    after = octo(side, wrist, language, mask)
    assert before[0].allclose(after[0], atol=1e-6)
    assert not before[1].allclose(after[1], atol=1e-4)


@torch.no_grad()
def test_the_past_matters_and_language_matters():
    torch.manual_seed(0)
    octo = Octo(paper_layout())
    side, wrist, language = inputs(octo.settings)
    base = octo(side, wrist, language)
    assert base.shape == (2, 32)
    assert not base.allclose(octo(side.flip(1), wrist, language), atol=1e-4)
    assert not base.allclose(octo(side, wrist, -language), atol=1e-4)


def test_standardized_conv_against_numpy():
    torch.manual_seed(0)
    conv = StandardizedConv(3, 4, 3, 2, 1)
    x = torch.randn(1, 3, 6, 6)
    w = conv.weight.detach().double().numpy()
    w = w - w.mean((1, 2, 3), keepdims=True)
    w = w / (w.std((1, 2, 3), keepdims=True) + 1e-5)
    padded = np.pad(x[0].double().numpy(), ((0, 0), (1, 1), (1, 1)))
    wanted = np.array(
        [
            [[(padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] * w[o]).sum() for j in range(3)] for i in range(3)]
            for o in range(4)
        ]
    ) + conv.bias.detach().double().numpy().reshape(-1, 1, 1)
    assert np.abs(conv(x)[0].detach().numpy() - wanted).max() < 1e-5


@pytest.mark.parametrize(("px", "coarse", "tokens"), [(64, False, 64), (64, True, 16)])
def test_patch_stem_keeps_the_order_of_the_grid(px, coarse, tokens):
    tokenizer = ImageTokenizer(OctoSettings(), px, coarse=coarse)
    image = torch.zeros(1, px, px, 3)
    brighter = image.clone()
    brighter[:, : px // 8] = 255  # the first row of patches
    with torch.no_grad():
        changed = (tokenizer(brighter) - tokenizer(image)).abs().sum(2)[0]
    assert tokenizer.tokens == tokens == len(changed)
    side = int(tokens**0.5)
    assert changed[:side].min() > 0
    assert changed[side * 2 :].max() < 1e-6


@pytest.mark.parametrize(("name", "count"), [("small", 27_042_060 - 1_703_564), ("base", 92_830_092 - 1_801_868)])
def test_presets_have_the_released_sizes_without_the_diffusion_head(name, count):
    assert sum(p.numel() for p in Octo(preset(name).octo).parameters()) == count


def test_bad_layouts_are_refused():
    with pytest.raises(InputError, match=r"octo\.dim=97.*heads=4"):
        OctoSettings(dim=97)
    with pytest.raises(InputError, match=r"octo\.window=2"):
        OctoSettings(window=2)
    with pytest.raises(InputError, match="tiny, small, base"):
        preset("tinny")
