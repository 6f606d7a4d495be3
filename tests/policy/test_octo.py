"""These tests check Octo's attention rule, the readout shortcut, the stems and the size of the presets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.octo.model import Octo
from policy.octo.settings import OctoSettings
from policy.octo.tokenizers import ImageTokenizer, StandardizedConv
from policy.octo.transformer import TokenGroup, Transformer, additive, allowed_keys
from policy.settings import preset
from protos.errors import InputError

GROUPS = st.lists(
    st.tuples(st.sampled_from(["obs", "readout"]), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=8
)


MAY = {"task": {"task"}, "obs": {"task", "obs"}, "readout": {"task", "obs", "readout"}}


def reference_mask(groups, correct):
    """The rule written out token by token, with the original's look-up of a token's group."""
    tokens = []
    for time in sorted({group.time for group in groups}):
        step = [group for group in groups if group.time == time]
        ends = np.cumsum([group.tokens for group in step])
        for i in range(ends[-1]):
            tokens.append((step[np.searchsorted(ends, i, side="right" if correct else "left")].kind, time))
    return np.array([[key in MAY[query] and s <= t for key, s in tokens] for query, t in tokens])


@settings(deadline=None)
@given(GROUPS, st.booleans())
def test_mask_equals_the_rule_token_by_token(drawn, correct):
    groups = [TokenGroup(kind="task", time=-1, tokens=2)]
    groups += [
        TokenGroup(kind=kind, time=time, tokens=count)
        for kind, time, count in sorted(drawn, key=lambda group: group[1])
    ]
    assert (allowed_keys(groups, correct=correct).numpy() == reference_mask(groups, correct)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_that_sees_nothing_looks_everywhere_alike(dtype):
    """Autocast turns the mask to bfloat16, and a kernel then scales it by log2(e)."""
    mask = additive(torch.zeros(1, 3, dtype=torch.bool), dtype)
    assert torch.softmax(mask.float() + torch.tensor([0.0, 1.0, 2.0]) * (dtype == torch.float32), -1).allclose(
        torch.full((1, 3), 1 / 3)
    )
    if dtype == torch.float32:
        assert (1.5 * mask.bfloat16()).isfinite().all()


@pytest.mark.parametrize("rows", [1, 3])
def test_last_rows_alone_equal_the_full_result(rows):
    torch.manual_seed(0)
    net = Transformer(dim=32, layers=3, heads=4, mlp_dim=64)
    x = torch.randn(2, 11, 32)
    mask = additive(torch.rand(11, 11) > 0.3, torch.float32)
    assert (net(x, mask, rows) - net(x, mask, 11)[:, -rows:]).abs().max() < 1e-5


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
    with torch.device("meta"):
        octo = Octo(preset(name).octo)
    assert sum(p.numel() for p in octo.parameters()) == count


def test_bad_layouts_are_refused():
    with pytest.raises(InputError, match=r"octo\.dim=97.*heads=4"):
        OctoSettings(dim=97)
    with pytest.raises(InputError, match=r"octo\.window=2"):
        OctoSettings(window=2)
    with pytest.raises(InputError, match=r"octo\.stem_features=\(32, 64\): must be 4 numbers, each a multiple of 32"):
        OctoSettings(stem="small_stem", stem_features=(32, 64))
    with pytest.raises(InputError, match=r"octo\.stem_features=\(32, 64, 64, 100\)"):
        OctoSettings(stem="small_stem", stem_features=(32, 64, 64, 100))
    with pytest.raises(InputError, match=r"octo\.readout_tokens=0"):
        OctoSettings(readout_tokens=0)
    with pytest.raises(InputError, match="tiny, small, base"):
        preset("tinny")
