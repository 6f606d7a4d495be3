"""These tests compare silhouettes and their derivatives with the rasterizer and finite differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin import robots
from twin.align.refine import Similarity, nudged
from twin.align.robot import mesh_surface, robot_model
from twin.align.silhouette import cloud_of, moved, silhouette, silhouette_and_jacobian
from twin.camera import look_at
from twin.render import rasterize
from twin.splats import Splats

PIVOT = np.array([-0.25, 0.0, 0.25])
JOINTS = robots.get("ur5e").home
CAMERA = look_at((-1.1, 0.6, 0.6), at=(-0.25, 0, 0.25), fovy_deg=50, px=96)
numbers = st.floats(-1, 1)
vectors = st.lists(numbers, min_size=7, max_size=7).map(np.array)


@pytest.fixture(scope="module")
def robot():
    return robot_model("ur5e").splats(JOINTS, 0.02)


def blobs(opacity):
    """Makes a few large soft splats, whose ellipses reach beyond the image: no edge of an ellipse lies in it."""
    rng = np.random.default_rng(0)
    return Splats.of(
        means=PIVOT + rng.normal(0, 0.08, (6, 3)),
        quaternions=[q / np.linalg.norm(q) for q in rng.normal(size=(6, 4))],
        scales=rng.uniform(0.3, 0.6, (6, 3)),
        opacities=np.full(6, opacity),
        colours=np.ones((6, 3)),
    )


def test_coverage_is_what_the_rasterizer_hides(robot):
    shown = 1 - rasterize(robot, CAMERA).transmittance
    assert np.abs(silhouette(cloud_of(robot), CAMERA) - shown).mean() < 1e-4
    assert np.abs(silhouette(cloud_of(robot), CAMERA) - shown).max() < 5e-3


@settings(max_examples=15, deadline=None)
@given(vectors)
def test_the_derivative_is_that_of_moving_the_splats(direction):
    """Central differences along any direction in the seven parameters agree, in single precision."""
    cloud, move = cloud_of(blobs(0.4)), 0.01 * direction

    def drawn(sign):
        at = nudged(Similarity(pose=np.eye(4)), sign * move, PIVOT)
        return silhouette(moved(cloud, at.pose, at.scale), CAMERA).astype(float)

    coverage, jacobian = silhouette_and_jacobian(cloud, CAMERA, PIVOT)
    change = np.tensordot(move, jacobian, 1)
    assert np.abs(coverage - drawn(0)).max() < 1e-6
    assert np.abs((drawn(1) - drawn(-1)) / 2 - change).max() < 2e-3 * np.abs(change).max() + 1e-6


def test_the_derivative_follows_torch_autograd(robot):
    """The trainer's rasterizer, differentiated by torch, agrees on an image-wide loss."""
    torch = pytest.importorskip("torch")
    from twin.scan.rasterize import render

    target = np.roll(silhouette(cloud_of(robot), CAMERA), 3, axis=1)
    shift = torch.zeros(3, requires_grad=True)
    means, quaternions, scales, opacities = (
        torch.from_numpy(a) for a in (robot.means, robot.quaternions, robot.scales, robot.opacities)
    )
    pose = torch.tensor(CAMERA.camera_from_base, dtype=torch.float32)
    matrix = torch.tensor(CAMERA.intrinsics, dtype=torch.float32)
    white = torch.ones(len(robot), 3)
    drawn = render(means + shift, quaternions, scales, opacities, white, pose, matrix, CAMERA.width, CAMERA.height)
    ((drawn.image[..., 0] - torch.from_numpy(target)) ** 2).sum().backward()
    coverage, jacobian = silhouette_and_jacobian(cloud_of(robot), CAMERA, PIVOT)
    ours = 2 * (jacobian[:3] * (coverage - target)).sum(axis=(1, 2))
    assert ours == pytest.approx(shift.grad.numpy(), rel=0.02)


@settings(max_examples=20, deadline=None)
@given(vectors, vectors)
def test_similarities_form_a_group(first, second):
    there = nudged(Similarity(pose=np.eye(4)), first, PIVOT)
    on = nudged(there, second, PIVOT)
    point = np.array([[0.3, -0.2, 0.5]])
    assert there.inverse().apply(there.apply(point)) == pytest.approx(point, abs=1e-9)
    assert nudged(on, 0 * first, PIVOT).apply(point) == pytest.approx(on.apply(point), abs=1e-9)
    assert on.scale == pytest.approx(np.exp(first[6] + second[6]))


def test_silhouettes_end_where_cast_masks_do():
    model = robot_model("ur5e")
    cloud, mask = cloud_of(model.splats(JOINTS)), model.mask(JOINTS, CAMERA.resized(320, 320))
    cover = silhouette(cloud, CAMERA.resized(320, 320))
    assert abs(cover.sum() / mask.sum() - 1) < 0.02
    assert (cover > 0.5)[mask].mean() > 0.97
    assert mask[cover > 0.5].mean() > 0.97


def test_points_lie_evenly_on_a_mesh():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.0]])
    points, normals = mesh_surface(corners, np.array([[0, 1, 2], [1, 3, 2]], np.int32), 0.05)
    assert len(points) == 400
    assert normals == pytest.approx(np.tile([0, 0, 1.0], (400, 1)))
    counts, _, _ = np.histogram2d(*points[:, :2].T, bins=4, range=[[0, 1], [0, 1]])
    assert counts.min() > 15
    assert counts.max() < 36
