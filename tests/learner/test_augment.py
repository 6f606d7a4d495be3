"""Augmentation is compared with plain loops; a row is augmented alike wherever it is computed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.augment import Augmentation, augment, blur, draw, jitter, random_crop
from protos.errors import InputError

EVERYTHING = Augmentation(crop_pad=3, gain_jitter=0.2, shift_jitter=9.0, wrist_dropout=0.4)


def images(n=6, window=2, px=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, window, px, px, 3), generator=generator, dtype=torch.uint8)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(0, 10_000))
def test_a_crop_is_a_crop_of_the_padded_image(n, window, pad, seed):
    given = images(n, window, seed=seed).float()
    where = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))
    found = random_crop(given, where, pad).numpy()
    width = ((0, 0), (0, 0), (pad, pad), (pad, pad), (0, 0))
    padded = np.pad(given.numpy(), width, mode="edge")
    for i in range(n):
        y, x = np.floor(where[i].numpy() * (2 * pad + 1)).astype(int)
        assert np.array_equal(found[i], padded[i, :, y : y + 8, x : x + 8])


def test_every_place_is_chosen_equally_often():
    flat = torch.arange(9.0).repeat(9, 1)[None, None, :, :, None].expand(4000, 1, 9, 9, 3)
    where = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    column = random_crop(flat, where, 2)[:, 0, 4, 4, 0]
    share = torch.bincount(column.long(), minlength=9)[2:7] / 4000
    assert share.tolist() == pytest.approx([0.2] * 5, abs=0.03)


def test_jitter_is_a_gain_and_an_offset_per_channel():
    normal = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1))
    found = jitter(images().float(), normal, 0.2, 9.0)
    gain, shift = (1 + 0.2 * normal[:, 0]).numpy(), (9.0 * normal[:, 1]).numpy()
    wanted = images().numpy() * gain[:, None, None, None] + shift[:, None, None, None]
    assert np.allclose(found, wanted.clip(0, 255), atol=1e-3)


def test_rows_are_augmented_alike_alone_and_in_a_batch():
    columns = draw(6, EVERYTHING, torch.Generator().manual_seed(2), "next_")
    for camera in ("next_side", "next_wrist"):
        whole = augment(images(), camera, columns, EVERYTHING)
        for i in range(6):
            row = {name: column[i : i + 1] for name, column in columns.items()}
            assert torch.equal(augment(images()[i : i + 1], camera, row, EVERYTHING), whole[i : i + 1])


def test_only_the_wrist_camera_is_ever_lost():
    columns = draw(2000, EVERYTHING, torch.Generator().manual_seed(3))
    lost = columns["wrist_kept"] == 0
    assert float(lost.float().mean()) == pytest.approx(0.4, abs=0.04)
    dark = Augmentation(wrist_dropout=0.4)
    some = {name: column[:6] for name, column in columns.items()}
    assert torch.equal(augment(images(), "side", some, dark), images().float())
    found = augment(images(), "wrist", some, dark)
    assert (found.flatten(1).amax(1) == 0).tolist() == lost[:6].tolist()


def test_nothing_is_drawn_or_done_by_default():
    assert not draw(4, Augmentation(), torch.Generator())
    assert torch.equal(augment(images(), "wrist", {}, Augmentation()), images().float())


def test_numbers_are_blurred_and_lost_by_row():
    found = blur(torch.ones(3, 2), torch.tensor([[0.1, 0.0], [0.0, -0.1], [0.0, 0.0]]), torch.tensor([1.0, 1.0, 0.0]))
    assert torch.allclose(found, torch.tensor([[1.1, 1.0], [1.0, 0.9], [0.0, 0.0]]))


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match="wrist_dropout below 1"):
        Augmentation(wrist_dropout=1.0)
    with pytest.raises(InputError, match="crop_pad=-1"):
        Augmentation(crop_pad=-1)
