"""Losses are compared with float64 numpy written from the equations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SMALL, make_policy

from learner import losses
from learner.optimization import late_decay, warmup_cosine
from learner.rl import Phase, UpdateSettings
from learner.rl.batches import draw_noise
from services.replay.read.index import n_step

RNG = np.random.default_rng(0)


def tensor(array):
    return torch.from_numpy(np.asarray(array, np.float32))


def numpy_head(head, features, noisy, sigma):
    """Computes f(x, σ | s) in float64, from the paper's definition and the head's weights."""
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


def drawn(rows, seed=0):
    """Returns a batch for the cloning loss: features, actions, levels, noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, SMALL.feature_dim)).astype(np.float32)
    action = rng.uniform(-1, 1, (rows, 4)).astype(np.float32)
    return features, action, rng.integers(0, 39, rows), rng.normal(size=(rows, 4)).astype(np.float32)


@pytest.mark.parametrize("sigma_weighted", [False, True])
@pytest.mark.parametrize("filtered", [False, True])
def test_consistency_bc(sigma_weighted, filtered):
    head = make_policy().head
    features, action, level, noise = drawn(20)
    imitate = (RNG.random(20) > 0.5).astype(np.float32)
    found = losses.consistency_bc(
        head,
        tensor(features),
        tensor(action),
        level=torch.from_numpy(level),
        noise=tensor(noise),
        imitate=losses.row_weights(tensor(imitate)) if filtered else None,
        sigma_weighted=sigma_weighted,
    )
    sigma = (80 ** (1 / 7) + level / 39 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    out = numpy_head(head, features, action + sigma[:, None] * noise.astype(float), sigma)
    error = ((out - action) ** 2).mean(1)
    if sigma_weighted:
        error = error * (sigma**-2.0 + 4.0)
    wanted = (error * imitate).sum() / imitate.sum() if filtered else error.mean()
    assert float(found.detach()) == pytest.approx(wanted, rel=2e-3)


def test_the_levels_drawn_leave_out_the_smallest():
    """The head is the identity at the lowest level: the loss would be the noise itself."""
    head, (features, action, _, noise) = make_policy().head, drawn(8)
    level = torch.full((8,), 39)
    lowest = losses.consistency_bc(head, tensor(features), tensor(action), level=level, noise=tensor(noise)).detach()
    assert float(lowest) == pytest.approx(float(np.square(0.002 * noise).mean()), rel=1e-3)
    generator = torch.Generator().manual_seed(0)
    level = draw_noise(4000, SMALL, UpdateSettings(), Phase(), generator)["level"]
    assert (int(level.min()), int(level.max())) == (0, 38)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.01, 1.0, 30.0]), min_size=1, max_size=9))
def test_row_weights_make_a_mean_a_weighted_mean(weights):
    weight, error = np.array(weights), np.arange(len(weights)) + 1.0
    found = float((losses.row_weights(tensor(weight)) * tensor(error)).mean())
    wanted = (weight * error).sum() / weight.sum() if weight.any() else 0.0
    assert found == pytest.approx(wanted, rel=1e-4)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_losses_are_means_over_equal_parts_of_any_shape(critics, half, actions, seed):
    rng = np.random.default_rng(seed)
    q, y = rng.normal(size=(critics, 2 * half)), rng.normal(size=2 * half)
    weight, mc = rng.uniform(size=2 * half), rng.uniform(size=2 * half)
    ours, uniform = (rng.normal(size=(critics, m, 2 * half)) for m in (2 * actions, actions))

    def both(rows):
        td = losses.td_error(tensor(q[:, rows]), tensor(y[rows]), tensor(weight[rows]))
        gap = losses.cal_ql_gap(*(tensor(a) for a in (q[:, rows], ours[..., rows], uniform[..., rows], mc[rows])))
        return np.array([float(td), float(gap), float(losses.q_loss(tensor(q[:, rows])))])

    left, right = both(slice(0, half)), both(slice(half, None))
    assert np.allclose(both(slice(None)), (left + right) / 2, rtol=1e-4, atol=1e-5)


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
@pytest.mark.parametrize("raise_uniform", [False, True])
def test_cal_ql_gap(temperature, raise_uniform):
    data, ours, uniform = RNG.normal(size=(2, 9)), RNG.normal(size=(2, 6, 9)), RNG.normal(size=(2, 3, 9))
    mc = RNG.uniform(size=9)
    arrays = map(tensor, (data, ours, uniform, mc))
    found = losses.cal_ql_gap(*arrays, temperature=temperature, raise_uniform=raise_uniform)
    other = np.maximum(uniform, mc) if raise_uniform else uniform
    stack = np.concatenate([np.maximum(ours, mc), other, data[:, None]], 1)
    soft = temperature * (np.log(np.exp(stack / temperature).sum(1)) - np.log(10))
    assert float(found) == pytest.approx((soft - data).mean(), rel=1e-4)


@pytest.mark.parametrize(("raise_uniform", "pushed"), [(False, True), (True, False)])
def test_cal_ql_does_not_push_below_the_return_that_was_seen(raise_uniform, pushed):
    def gradients(mc):
        ours, uniform = torch.full((1, 1, 1), 0.2, requires_grad=True), torch.full((1, 1, 1), 0.2, requires_grad=True)
        gap = losses.cal_ql_gap(torch.zeros(1, 1), ours, uniform, torch.tensor([mc]), raise_uniform=raise_uniform)
        gap.backward()
        return float(ours.grad) > 0.0, float(uniform.grad) > 0.0

    assert gradients(0.6) == (False, pushed)
    assert gradients(0.1) == (True, True)


@pytest.mark.parametrize("terminated", [True, False])
def test_targets_of_several_steps_stop_at_an_end_but_not_at_a_timeout(terminated):
    """The replay's sums are compared with the definition: rewards of up to 3 steps, then the value, if any is left."""
    reward, value = RNG.normal(size=6).astype(np.float32), RNG.normal(size=(2, 7))
    steps = n_step(reward, terminated=terminated, gamma=0.9, n=3)
    next_q = value[:, np.arange(6) + steps.ahead]
    found = losses.td_target(tensor(steps.reward), tensor(steps.discount), tensor(next_q), None).numpy()
    for t in range(6):
        end = min(t + 3, 6)
        wanted = sum(0.9 ** (j - t) * reward[j] for j in range(t, end))
        if end < 6 or not terminated:
            wanted += 0.9 ** (end - t) * value[:, end].min()
        assert found[t] == pytest.approx(wanted, rel=1e-5)


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
    assert late_decay(progress) == pytest.approx(1.0 if progress <= 0.5 else max(0.1, 2 * (1 - progress)))


@settings(deadline=None)
@given(st.integers(0, 300))
def test_warm_up_and_cosine_as_released(step):
    """It is optax.warmup_cosine_decay_schedule with one step more at the start: no update is lost at a rate of 0."""
    found = warmup_cosine(step, warmup=100, decay=150, floor=0.03)
    if step < 100:
        assert found == pytest.approx((step + 1) / 100)
    else:
        assert found == pytest.approx(0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * min(1, (step - 100) / 150))))
