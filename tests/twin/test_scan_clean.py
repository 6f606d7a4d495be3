"""These tests clean splats: each kind of leftover goes for its own reason, the scene stays."""

import numpy as np
import pytest

from protos.errors import SceneError
from twin.scan.clean import CleanSettings, clean
from twin.splats import Splats, concatenate


def splats(means, scale=0.01, opacity=0.9):
    count = len(means)
    return Splats.of(
        means=means,
        quaternions=np.tile([1.0, 0, 0, 0], (count, 1)),
        scales=np.full((count, 3), scale),
        opacities=np.full(count, opacity),
        colours=np.full((count, 3), 0.5),
    )


@pytest.fixture
def table(photographed):
    return splats(photographed.points)


BAD = {
    "faint": lambda scene: splats(scene.points[:1], opacity=0.001),
    "large": lambda scene: splats(scene.points[:1], scale=3.0),
    "near a camera": lambda scene: splats([scene.views[0].camera.base_from_camera[:3, 3] + 0.05]),
    "far from points": lambda scene: splats([(-0.4, 0, 0.45)]),
    "floaters": lambda scene: splats([(-0.45, 0.0, 0.17)]),
    "not finite": lambda scene: splats([(np.nan, 0, 0)]),
}


@pytest.mark.parametrize("reason", BAD)
def test_every_leftover_goes_for_its_reason(photographed, table, reason):
    cleaned = clean(concatenate([table, BAD[reason](photographed)]), photographed, CleanSettings())
    assert cleaned.dropped == {reason: 1}
    assert np.array_equal(cleaned.splats.means, table.means)


def test_a_splat_far_from_all_others_goes(photographed, table):
    crowd = splats(np.random.default_rng(0).normal((-0.4, 0.1, 0.01), 0.003, (400, 3)).clip((-1, -1, 0.001)))
    alone = splats([(-0.4, -0.1, 0.1)])
    settings = CleanSettings(seen_past=1.0)
    assert clean(concatenate([crowd, alone]), photographed, settings).dropped == {"outliers": 1}
    assert clean(concatenate([crowd, alone]), photographed, CleanSettings(seen_past=1.0, outlier=0)).dropped == {}


def test_a_box_keeps_what_lies_in_it(photographed, table):
    box = (-0.6, -0.2, -0.1, -0.2, 0.2, 0.3)
    cleaned = clean(table, photographed, CleanSettings(box=box))
    inside = ((table.means >= box[:3]) & (table.means <= box[3:])).all(axis=1)
    assert 0 < inside.sum() < len(table)
    assert np.array_equal(cleaned.splats.means, table.means[inside])
    assert cleaned.dropped == {"outside": int((~inside).sum())}


def test_the_budget_keeps_what_covers_most(photographed, table):
    cleaned = clean(table, photographed, CleanSettings(most=20))
    assert len(cleaned.splats) == 20
    assert cleaned.dropped == {"over budget": len(table) - 20}


def test_nothing_left_is_refused_with_the_reasons(photographed):
    with pytest.raises(SceneError, match=r"no splat survived cleaning \(1 large\)"):
        clean(BAD["large"](photographed), photographed, CleanSettings())
    with pytest.raises(SceneError, match="three low limits, then three high ones"):
        CleanSettings(box=(0, 0, 0, 1, -1, 1))
