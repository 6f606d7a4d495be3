"""Losses against float64 numpy written from the equations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SMALL, make_policy

from learner import losses

RNG = np.random.default_rng(0)


def tensor(array):
    return torch.from_numpy(np.asarray(array, np.float32))


def numpy_head(head, features, noisy, sigma):
    """f(x, σ | s) in float64, from the paper's definition and the head's weights."""
    linear = [(m.weight.detach().double().numpy(), m.bias.detach().double().numpy()) for m in head.net[::3]]
    s = sigma[:, None]
    angle = 0.25 * np.log(s) * np.exp(np.linspace(0, np.log(100), 8))
    x = np.concatenate([features, noisy / np.sqrt(s**2 + 0.25), np.sin(angle), np.cos(angle)], 1)
    for i, (weight, bias) in enumerate(linear):
        x = x @ weight.T + bias
        if i < len(linear) - 1:
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
            x = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    c_skip = 0.25 / ((s - 0.002) ** 2 + 0.25)
    return c_skip * noisy + (s - 0.002) * 0.5 / np.sqrt(s**2 + 0.25) * x


@pytest.mark.parametrize("sigma_weighted", [False, True])
@pytest.mark.parametrize("filtered", [False, True])
def test_consistency_bc(sigma_weighted, filtered):
    head = make_policy().head
    features = RNG.normal(size=(20, SMALL.feature_dim)).astype(np.float32)
    action = RNG.uniform(-1, 1, (20, 4)).astype(np.float32)
    imitate = (RNG.random(20) > 0.5).astype(np.float32)
    found = losses.consistency_bc(
        head,
        tensor(features),
        tensor(action),
        imitate=tensor(imitate) if filtered else None,
        sigma_weighted=sigma_weighted,
        generator=torch.Generator().manual_seed(4),
    )
    generator = torch.Generator().manual_seed(4)
    level = torch.randint(0, 40, (20,), generator=generator).numpy()
    noise = torch.randn(20, 4, generator=generator).double().numpy()
    sigma = (0.002 ** (1 / 7) + level / 39 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    out = numpy_head(head, features.astype(float), action + sigma[:, None] * noise, sigma)
    error = ((out - action) ** 2).mean(1)
    if sigma_weighted:
        error = error * (sigma**-2.0 + 4.0)
    wanted = (error * imitate).sum() / imitate.sum() if filtered else error.mean()
    assert float(found.detach()) == pytest.approx(wanted, rel=2e-3)


def test_weighted_mean_of_nothing_is_small():
    assert float(losses.weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0]))) == pytest.approx(3, rel=1e-5)
    assert torch.isfinite(losses.weighted_mean(torch.ones(3), torch.zeros(3)))


def test_td_target_takes_the_lowest_critic_and_stops_at_the_end():
    q = np.array([[0.5, 2.0, -1.0, 0.7], [0.8, 1.5, -2.0, 0.9]])
    reward, discount = np.array([0.0, 0.1, 0.2, 1.0]), np.array([0.9, 0.8, 0.7, 0.0])
    free = losses.td_target(tensor(reward), tensor(discount), tensor(q), None)
    clipped = losses.td_target(tensor(reward), tensor(discount), tensor(q), (0.0, 1.0))
    assert np.allclose(free, reward + discount * q.min(0))
    assert np.allclose(clipped, reward + discount * q.min(0).clip(0, 1))
    assert float(clipped[3]) == 1.0


def test_td_error_is_the_mean_over_critics_and_rows():
    q, y, w = RNG.normal(size=(2, 9)), RNG.normal(size=9), RNG.uniform(size=9)
    assert float(losses.td_error(tensor(q), tensor(y), tensor(w))) == pytest.approx((w * (q - y) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_cal_ql_gap(temperature):
    data, ours, uniform = RNG.normal(size=(2, 9)), RNG.normal(size=(2, 3, 9)), RNG.normal(size=(2, 3, 9))
    mc = RNG.uniform(size=9)
    found = losses.cal_ql_gap(*map(tensor, (data, ours, uniform, mc)), temperature)
    stack = np.concatenate([np.maximum(ours, mc), uniform, data[:, None]], 1)
    soft = temperature * np.log(np.mean(np.exp(stack / temperature), 1))
    assert float(found) == pytest.approx((soft - data).mean(), rel=1e-4)


def test_cal_ql_does_not_push_below_the_return_that_was_seen():
    ours = torch.full((1, 1, 1), 0.2, requires_grad=True)
    uniform = torch.full((1, 1, 1), -5.0)
    losses.cal_ql_gap(torch.zeros(1, 1), ours, uniform, torch.tensor([0.6]), 1.0).backward()
    assert float(ours.grad) == 0.0
    ours.grad = None
    losses.cal_ql_gap(torch.zeros(1, 1), ours, uniform, torch.tensor([0.1]), 1.0).backward()
    assert float(ours.grad) > 0.0


def test_actor_loss_weighs_its_parts():
    q = RNG.normal(size=(2, 5))
    assert float(losses.q_loss(tensor(q))) == pytest.approx(-q.mean(), rel=1e-5)
    assert float(losses.actor_loss(torch.tensor(2.0), torch.tensor(-3.0), beta=0.5, eta=0.1)) == pytest.approx(0.7)


@settings(deadline=None)
@given(st.floats(0, 1))
def test_schedules(progress):
    beta, eta = losses.weights_at(progress, (1.0, 0.1), (0.5, 1.0))
    assert beta == pytest.approx(1 - 0.5 * progress)
    assert eta == pytest.approx(0.1 + 0.9 * progress)
    assert losses.late_decay(progress) == pytest.approx(1.0 if progress <= 0.5 else max(0.1, 2 * (1 - progress)))


def test_sft_schedule_warms_up_and_ends_low():
    factors = [losses.warm_cosine(step, 800) for step in range(800)]
    assert factors[0] == pytest.approx(1 / 50)
    assert max(factors) > 0.98
    assert factors[-1] == pytest.approx(0.03, abs=1e-3)
