"""These tests check critics with a convolutional encoder."""

import numpy as np
import pytest
import torch

from policy.critics import ConvSettings, ImageCritic, SpatialEmbedding
from protos.errors import InputError

SMALL = ConvSettings(channels=(8, 16), groups=4, spatial_features=3, bottleneck=6)


def make_critic(seed=0):
    torch.manual_seed(seed)
    return ImageCritic(SMALL, pixels=(16, 8), proprio=5, action_dim=4, members=2, width=16)


def make_view(n=3, window=2):
    side, wrist = (torch.randint(0, 256, (n, window, px, px, 3), dtype=torch.uint8) for px in (16, 8))
    return side, wrist, torch.randn(n, 5)


def test_spatial_embedding_weighs_positions():
    layer = SpatialEmbedding(channels=2, side=3, features=4)
    x = torch.randn(5, 2, 3, 3)
    kernel = layer.kernel.detach().double().numpy()
    found = layer(x).detach().numpy().reshape(5, 2, 4)
    flat = x.double().numpy().reshape(5, 2, 9)
    for c in range(2):
        assert np.allclose(found[:, c], flat[:, c] @ kernel[c], atol=1e-5)


def test_the_newest_images_of_both_cameras_and_the_numbers_count():
    critic = make_critic()
    side, wrist, proprio = make_view()
    seen = critic.see(side, wrist, proprio)
    assert seen.shape == (3, 2 * 6 + 5)
    assert (seen[:, :12].abs() <= 1).all()
    old = side.clone()
    old[:, 0] = 0
    assert torch.equal(critic.see(old, wrist, proprio), seen)
    for i, changed in enumerate(((255 - side, wrist, proprio), (side, 255 - wrist, proprio), (side, wrist, -proprio))):
        parts = [
            not torch.equal(a, b)
            for a, b in zip(seen.split([6, 6, 5], 1), critic.see(*changed).split([6, 6, 5], 1), strict=True)
        ]
        assert parts == [j == i for j in range(3)]


def test_its_features_feed_an_ordinary_ensemble():
    critic = make_critic()
    seen, action = critic.see(*make_view()), torch.randn(3, 4, requires_grad=True)
    q = critic(seen, action)
    assert q.shape == (2, 3)
    q.sum().backward()
    assert all(p.grad is not None for p in critic.parameters())
    critic.zero_grad(set_to_none=True)
    critic.fixed(seen.detach(), action).sum().backward()
    assert all(p.grad is None for p in critic.parameters())


def test_statistics_of_bounded_features_are_left_alone():
    critic = make_critic()
    critic.fit_normalization(torch.randn(50, 17) * 9)
    assert torch.equal(critic.std, torch.ones(17))


@pytest.mark.parametrize("channels", [(), (8, 9)])
def test_channels_must_fit_the_groups(channels):
    with pytest.raises(InputError, match=r"conv\.channels"):
        ConvSettings(channels=channels, groups=4)
