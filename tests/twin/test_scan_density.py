"""These tests check density control: what it adds, what it removes, and that training gains from it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from twin.rotations import matrix_from_quaternion
from twin.scan.density import Density, DensitySettings
from twin.scan.train import SeedSettings, TrainSettings, train

SETTINGS = DensitySettings(most=10, every=1, first=0, last=1, growth=1.0, faint=0.02, large_px=2.0)
FOCAL, WIDTH = 100.0, 100


def made(scales_m, opacities):
    """Makes splats in a row one metre in front of a camera at the origin."""
    n = len(scales_m)
    means = torch.stack([torch.linspace(-0.2, 0.2, n), torch.zeros(n), torch.ones(n)], 1)
    opacity = torch.tensor(opacities)
    parameters = [
        means,
        torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        torch.tensor(scales_m).log()[:, None].repeat(1, 3),
        (opacity / (1 - opacity)).log(),
        torch.arange(3.0 * n).reshape(n, 3),
    ]
    return [p.clone().requires_grad_(True) for p in parameters]


def stepped(parameters):
    optimizer = torch.optim.Adam([{"params": [p], "lr": 0.0} for p in parameters])
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    optimizer.step()
    return optimizer


def controlled(scales_m, opacities, motion, **changes):
    return controlled_from(made(scales_m, opacities), motion, **changes)


def controlled_from(parameters, motion, **changes):
    optimizer = stepped(parameters)
    density = Density(replace(SETTINGS, **changes), 10, FOCAL, WIDTH, torch.zeros(1, 3))
    moved = torch.tensor(motion)[:, None] * torch.tensor([[1.0, 0.0]]) / (WIDTH / 2)
    for _ in range(2):
        density.seen(moved, WIDTH)
    return parameters, density.control(parameters, optimizer, 1), optimizer


def test_a_small_splat_is_cloned_and_a_large_one_split():
    before, after, _ = controlled([0.01, 0.05, 0.01], [0.5, 0.5, 0.5], [1.0, 1.0, 0.0])
    assert len(after[0]) == 5
    colours = after[4][:, 0].tolist()
    assert sorted(colours) == [0, 0, 3, 3, 6]  # the first and the second twice
    sizes = {colour: after[2][[i for i, c in enumerate(colours) if c == colour], 0].exp() for colour in (0, 3, 6)}
    assert torch.allclose(sizes[0], torch.tensor(0.01))
    assert torch.allclose(sizes[3], torch.tensor(0.05 * 0.8))
    assert torch.equal(after[0][0], before[0][0])  # the original of a clone stays
    halves = after[0][[i for i, c in enumerate(colours) if c == 3]]
    assert float((halves[0] - halves[1]).detach().norm()) == pytest.approx(2 * 0.6 * 0.05, rel=1e-4)
    pair = after[3][[i for i, c in enumerate(colours) if c == 0]].sigmoid()
    assert 1 - float((1 - pair.detach()).prod()) == pytest.approx(0.5, abs=1e-5)  # both together hide what one hid


def test_halves_keep_the_moments_of_the_whole():
    parameters = made([0.05], [0.5])
    with torch.no_grad():
        parameters[1][:] = torch.nn.functional.normalize(torch.tensor([[0.7, -0.3, 0.5, 0.2]]), dim=1)
        parameters[2][:] = torch.tensor([[0.02, 0.05, 0.01]]).log()
    _, after, _ = controlled_from(parameters, [1.0])

    def covariance(row):
        splat = [parameter.detach()[row : row + 1] for parameter in after]
        rotation = torch.tensor(matrix_from_quaternion(splat[1].numpy())[0], dtype=torch.float32)
        axes = rotation * splat[2].exp()
        return axes @ axes.T

    offset = (after[0][1] - after[0][0])[:, None].detach() / 2
    whole = torch.tensor(matrix_from_quaternion(parameters[1].detach().numpy())[0], dtype=torch.float32)
    expected = whole @ torch.diag(torch.tensor([0.02, 0.05, 0.01]) ** 2) @ whole.T
    assert torch.allclose(covariance(0), covariance(1))
    assert torch.allclose(covariance(0) + offset @ offset.T, expected, atol=1e-7)


def test_faint_and_huge_splats_go_with_their_moments():
    _, after, optimizer = controlled([0.01, 0.01, 0.9, 0.01], [0.5, 0.001, 0.5, 0.5], [0.0] * 4)
    assert after[4][:, 0].tolist() == [0, 9]
    for number, (parameter, group) in enumerate(zip(after, optimizer.param_groups, strict=True)):
        assert group["params"] == [parameter]
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
        assert torch.allclose(optimizer.state[parameter]["exp_avg"], torch.tensor(0.1 * (1 + number)))
    assert len(optimizer.state) == 5


def test_new_splats_start_without_moments():
    _, after, optimizer = controlled([0.01, 0.01], [0.5, 0.5], [1.0, 0.0])
    moments = optimizer.state[after[0]]["exp_avg"]
    assert moments[2].abs().max() == 0
    assert moments[:2].abs().min() > 0


@pytest.mark.parametrize(("most", "growth", "expected"), [(4, 1.0, 4), (10, 0.34, 4), (3, 1.0, 3), (10, 1.0, 6)])
def test_the_budget_goes_to_the_largest_gradients(most, growth, expected):
    _, after, _ = controlled([0.01] * 3, [0.5] * 3, [1.0, 3.0, 2.0], most=most, growth=growth)
    assert len(after[0]) == expected
    if expected == 4:
        assert after[4][3, 0] == 3  # the second splat's


def test_gradients_below_the_limit_call_for_nothing():
    _, after, _ = controlled([0.01] * 3, [0.5] * 3, [0.5, 0.5, 0.5], gradient=0.6)
    assert len(after[0]) == 3


def test_a_reset_lowers_opacities_and_forgets_their_moments():
    parameters, after, optimizer = controlled([0.01] * 2, [0.05, 0.9], [0.0] * 2, reset_every=1, every=0)
    opacities = after[3].detach().sigmoid()
    assert opacities.tolist() == pytest.approx([0.05, 0.1], rel=1e-4)
    assert optimizer.state[after[3]]["exp_avg"].abs().max() == 0
    assert math.isclose(float(optimizer.state[after[0]]["exp_avg"].mean()), 0.1, rel_tol=1e-4)
    assert len(parameters[0]) == 2


def test_more_splats_where_they_are_needed_show_more(photographed):
    def after(most):
        density = DensitySettings(every=10, most=most, last=0.8)
        settings = TrainSettings(steps=60, width=96, seeds=SeedSettings(splats=150), density=density)
        return train(photographed, settings, lambda stage, share: None)

    few, more = after(150), after(1200)
    assert len(few.splats) <= 150 < len(more.splats) <= 1200
    assert more.psnr_db > few.psnr_db + 0.5
    assert np.isfinite(more.splats.means).all()
