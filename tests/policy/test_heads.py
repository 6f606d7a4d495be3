"""The consistency head and the critics against independent references."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.critic import CriticEnsemble
from policy.heads import ConsistencyHead, noise_levels
from policy.settings import HeadSettings
from protos.errors import InputError

SETTINGS = HeadSettings(width=32)


def make_head():
    torch.manual_seed(0)
    return ConsistencyHead(5, 4, SETTINGS)


def test_at_the_smallest_noise_the_head_is_the_identity():
    head = make_head()
    noisy = torch.randn(7, 4)
    out = head(torch.randn(7, 5), noisy, torch.full((7,), SETTINGS.sigma_min))
    assert (out - noisy).abs().max() < 1e-6


@settings(deadline=None)
@given(st.floats(0.002, 80.0))
def test_scalings_follow_the_paper(sigma):
    c_skip, c_out, c_in = (float(c) for c in make_head().scalings(torch.tensor([sigma], dtype=torch.float64)))
    assert c_skip == pytest.approx(0.25 / ((sigma - 0.002) ** 2 + 0.25))
    assert c_out == pytest.approx((sigma - 0.002) * 0.5 / np.sqrt(sigma**2 + 0.25))
    assert c_in == pytest.approx(1 / np.sqrt(sigma**2 + 0.25))


def test_noise_levels_are_karras_spaced():
    index = np.arange(40)
    wanted = (0.002 ** (1 / 7) + index / 39 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    assert np.allclose(noise_levels(SETTINGS).numpy(), wanted, rtol=1e-5)


def test_samples_lie_in_the_box_and_repeat_with_the_generator():
    head = make_head()
    features = torch.randn(50, 5)
    first, second = (head.sample(features, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.abs().max() <= 1


def test_ensemble_equals_its_members_one_by_one():
    torch.manual_seed(0)
    critic = CriticEnsemble(5, 4, members=3, width=16)
    features, action = torch.randn(6, 5), torch.rand(6, 4)
    critic.fit_normalization(torch.randn(100, 5) * 3 + 1)
    x0 = np.concatenate([((features - critic.mean) / critic.std).numpy().clip(-5, 5), action.numpy()], 1).astype(float)
    for k in range(3):
        x = x0
        for i in range(3):
            x = x @ critic.weights[i][k].detach().double().numpy() + critic.biases[i][k].detach().double().numpy()
            if i < 2:
                x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
                x = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
        assert np.abs(critic(features, action)[k].detach().numpy() - x[:, 0]).max() < 1e-5


def test_fixed_critic_passes_the_gradient_to_the_action_only():
    critic = CriticEnsemble(5, 4, width=16)
    action = torch.rand(6, 4, requires_grad=True)
    features = torch.randn(6, 5)
    assert torch.equal(critic.fixed(features, action), critic(features, action))
    critic.fixed(features, action).sum().backward()
    assert action.grad.abs().sum() > 0
    assert all(p.grad is None for p in critic.parameters())


def test_bad_noise_range_is_refused():
    with pytest.raises(InputError, match=r"sigma_min=90"):
        HeadSettings(sigma_min=90)
