"""These tests draw meshes like simple shapes, and scanned bodies as they are or thinned."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from protos.errors import SceneError
from twin import surfaces
from twin.render.moving import SCANNED_SPLATS, moving_splats
from twin.robots import UR5E
from twin.rotations import about_z, quaternion_from_matrix

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * [0.03, 0.02, 0.01]
FACES = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4]]
FACES += [[1, 5, 7], [1, 7, 3]]


def test_points_on_a_mesh_lie_on_its_faces_and_look_outwards():
    points, normals = surfaces.mesh(CORNERS, FACES, 0.002)
    area = 8 * (0.03 * 0.02 + 0.03 * 0.01 + 0.02 * 0.01)
    assert len(points) == pytest.approx(area / 0.002**2, abs=1)
    nearest = np.abs(points) / [0.03, 0.02, 0.01]
    np.testing.assert_allclose(nearest.max(1), 1, atol=1e-9)
    assert ((points * normals).sum(1) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    for axis, share in enumerate(np.array([0.02 * 0.01, 0.03 * 0.01, 0.03 * 0.02]) * 8 / area):
        assert (np.abs(normals[:, axis]) > 0.5).mean() == pytest.approx(share, abs=0.01)


def test_points_on_a_mesh_leave_no_holes():
    points, _ = surfaces.mesh([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]], [[0, 1, 2]], 0.004)
    probes = np.random.default_rng(0).dirichlet([1, 1, 1], 500) @ [[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]]
    distance = np.linalg.norm(probes[:, None] - points, axis=2).min(1)
    assert distance.max() < 1.5 * 0.004


def model_with(geom: str) -> mujoco.MjModel:
    """Makes a model like a twin's, with the robot's bodies and one more."""
    from twin.robots.mjcf import robot_mjcf

    vertices = " ".join(f"{value:g}" for value in CORNERS.ravel())
    return mujoco.MjModel.from_xml_string(
        f'<mujoco><compiler angle="radian" autolimits="true"/><asset><mesh name="hull" vertex="{vertices}"/></asset>'
        f'<worldbody>{robot_mjcf(UR5E, 1.0)}<body name="cube"><freejoint/>{geom}</body>'
        '<body name="target" mocap="true"/></worldbody></mujoco>'
    )


def test_a_mesh_geom_is_covered_where_mujoco_puts_it(task):
    quaternion = quaternion_from_matrix(about_z(0.5))
    model = model_with(
        f'<geom type="mesh" mesh="hull" pos="0 0 0.1" quat="{" ".join(map(str, quaternion))}" rgba="0 1 0 1"/>'
    )
    moving = moving_splats(model, UR5E, task)
    part = moving.splats[moving.body == model.body("cube").id]
    assert len(part) > 20
    local = (part.means - [0, 0, 0.1]) @ about_z(0.5)
    np.testing.assert_allclose((np.abs(local) / [0.03, 0.02, 0.01]).max(1), 1, atol=1e-4)
    assert (part.colours[:, 1] > 0.5).all() and (part.colours[:, 0] == 0).all()


def test_a_shape_that_cannot_be_drawn_is_named(task):
    with pytest.raises(SceneError, match="mjGEOM_ELLIPSOID"):
        moving_splats(model_with('<geom type="ellipsoid" size=".01 .02 .03"/>'), UR5E, task)


def test_a_scanned_body_is_thinned_where_images_must_be_cheap(task):
    points, normals = surfaces.box([0.03, 0.03, 0.03], 0.0007)
    scan = surfaces.surface_splats((points, normals), 0.0007, (0.9, 0.1, 0.1))
    scanned = replace(task, splats={"cube": scan})
    model = model_with('<geom type="box" size=".03 .03 .03"/>')
    body = model.body("cube").id
    whole, thin = (moving_splats(model, UR5E, scanned, thin=thin) for thin in (False, True))
    assert (whole.body == body).sum() == len(scan) > 2 * SCANNED_SPLATS
    few = thin.splats[thin.body == body]
    assert SCANNED_SPLATS / 3 < len(few) <= SCANNED_SPLATS
    np.testing.assert_allclose(np.abs(few.means).max(1), 0.03, atol=0.002)
    assert (thin.body != body).sum() == (whole.body != body).sum()
