"""These tests compare the consistency head and the critics with independent references."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.critics import CriticEnsemble
from policy.heads import ConsistencyHead, noise_levels
from policy.settings import HeadSettings
from protos.errors import InputError

SETTINGS = HeadSettings(width=32)


RELEASED = HeadSettings(network="conrft", width=32)


def make_head(settings=SETTINGS):
    torch.manual_seed(0)
    return ConsistencyHead(5, 4, settings)


@pytest.mark.parametrize("settings", [SETTINGS, RELEASED])
def test_at_the_smallest_noise_the_head_is_the_identity(settings):
    head = make_head(settings)
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
    noise = torch.randn(50, 4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(head.sample(features, noise=noise), first), "the noise may be given"
    far = torch.full((50,), 80.0)
    assert torch.equal(head(features, 80.0 * noise, far).clamp(-1, 1), first), "one step from the largest noise"


def reference(head, features, noisy, sigma, network):
    """f(noisy, sigma | features) in numpy and float64."""
    p = {name: tensor.detach().double().numpy() for name, tensor in head.state_dict().items()}
    features, noisy, sigma = (tensor.double().numpy() for tensor in (features, noisy, sigma[:, None]))

    def dense(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    inner = noisy / np.sqrt(sigma**2 + 0.25)
    if network == "conrft":
        angle = 1000 * 0.25 * np.log(sigma) * np.exp(np.arange(8) * -np.log(10_000) / 7)
        level = dense("time.2", np.tanh(dense("time.0", np.concatenate([np.sin(angle), np.cos(angle)], 1))))
        x, act, eps = np.concatenate([inner, level, features], 1), np.tanh, 1e-6
    else:
        angle = 0.25 * np.log(sigma) * np.exp(np.linspace(0, np.log(100), 8))
        x, eps = np.concatenate([features, inner, np.sin(angle), np.cos(angle)], 1), 1e-5

        def act(x):
            return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()

    for i in (0, 3):
        x = dense(f"net.{i}", x)
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + eps)
        x = act(x * p[f"net.{i + 1}.weight"] + p[f"net.{i + 1}.bias"])
    skip, out = 0.25 / ((sigma - 0.002) ** 2 + 0.25), (sigma - 0.002) * 0.5 / np.sqrt(sigma**2 + 0.25)
    return skip * noisy + out * dense("net.6", x)


@pytest.mark.parametrize("settings", [SETTINGS, RELEASED])
def test_networks_equal_their_references(settings):
    head = make_head(settings)
    with torch.no_grad():
        for p in head.parameters():
            p.add_(0.1 * torch.randn_like(p))
    sigma = noise_levels(settings)[torch.randint(0, 40, (64,))]
    features, noisy = torch.randn(64, 5), torch.randn(64, 4) * sigma[:, None]
    wanted = reference(head, features, noisy, sigma, settings.network)
    # the released encoding turns float32 rounding of 250 log(sigma) into about 1e-4 of an angle
    tolerance = 1e-5 if settings.network == "gelu" else 2e-4
    assert np.abs(head(features, noisy, sigma).detach().numpy() - wanted).max() < tolerance


def test_the_released_network_has_the_released_layers():
    shapes = {
        name: tuple(p.shape) for name, p in ConsistencyHead(448, 7, HeadSettings(network="conrft")).named_parameters()
    }
    assert {name: shape for name, shape in shapes.items() if len(shape) == 2} == {
        "time.0.weight": (32, 16),
        "time.2.weight": (16, 32),
        "net.0.weight": (256, 7 + 16 + 448),
        "net.3.weight": (256, 256),
        "net.6.weight": (7, 256),
    }


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
