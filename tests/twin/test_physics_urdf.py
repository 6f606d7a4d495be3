"""This module reads URDF files back by MuJoCo, which reads them independently of how they are written here."""

import mujoco
import numpy as np
import pytest

from protos.errors import InputError
from twin import robots, tasks
from twin.physics import build_model
from twin.physics.urdf import subtree, write_urdf
from twin.randomize import DOMAINS
from twin.rotations import matrix_from_quaternion

KEEP = "<mujoco><compiler fusestatic='false' discardvisual='false' balanceinertia='false'/></mujoco>"
"""MuJoCo's own extension of URDF: keep every link as it is."""


def read_back(path):
    path.write_text(path.read_text().replace("</robot>", f"{KEEP}</robot>"))
    return mujoco.MjModel.from_xml_path(str(path))


def inertia(model, name):
    body = model.body(name)
    turn = matrix_from_quaternion(body.iquat)
    return turn @ np.diag(body.inertia) @ turn.T


@pytest.fixture(scope="module", params=robots.names())
def robot(request):
    return robots.get(request.param)


def test_an_arm_keeps_its_kinematics_masses_and_limits(robot, tmp_path):
    model = build_model(robot, tasks.get("pick_and_place"), DOMAINS["twin"].middle)
    back = read_back(write_urdf(model, "base", tmp_path))
    names = [model.body(body).name for body in subtree(model, "base")]
    assert set(names) == {back.body(i).name for i in range(1, back.nbody)} | {"base"}
    rng = np.random.default_rng(0)
    for _ in range(5):
        there, here = mujoco.MjData(back), mujoco.MjData(model)
        for name in (*robot.joints, *robots.FINGERS):
            low, high = model.joint(name).range
            there.joint(name).qpos = here.joint(name).qpos = rng.uniform(low, high)
        mujoco.mj_kinematics(back, there)
        mujoco.mj_kinematics(model, here)
        mount = robot.base_from_mount.matrix
        for name in names[1:]:
            placed = mount[:3, :3] @ there.body(name).xpos + mount[:3, 3]
            np.testing.assert_allclose(placed, here.body(name).xpos, atol=1e-6)
            turned = mount[:3, :3] @ there.body(name).xmat.reshape(3, 3)
            np.testing.assert_allclose(turned, here.body(name).xmat.reshape(3, 3), atol=1e-6)
    for name in robot.joints:
        assert back.body(name).mass[0] == pytest.approx(model.body(name).mass[0])
        np.testing.assert_allclose(inertia(back, name), inertia(model, name), atol=1e-6)
        np.testing.assert_allclose(back.joint(name).range, model.joint(name).range, atol=1e-6)


MJCF = """<mujoco><asset><mesh name="wedge" vertex="0 0 0  .04 0 0  0 .03 0  0 0 .05  .04 .03 .05"/></asset><worldbody>
<body name="thing" pos="0 0 1"><freejoint/>
  <geom type="box" size=".01 .02 .03" pos=".1 .2 .3" euler="10 20 30"/>
  <geom type="sphere" size=".02" pos="0 .1 0"/>
  <geom type="cylinder" size=".02 .05" euler="0 90 0"/>
  <geom type="mesh" mesh="wedge" pos="-.1 0 0" euler="0 0 90"/>
  <geom type="box" size="1 1 1" contype="0" conaffinity="0"/></body>
<body name="rod"><geom type="capsule" size=".01 .04" euler="0 90 0"/></body>
<body name="egg"><geom type="ellipsoid" size=".01 .02 .03"/></body></worldbody></mujoco>"""


def corners(model, geom):
    """Returns extreme points of a geom in its body's frame, from the box around it."""
    centre, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    turn = matrix_from_quaternion(model.geom_quat[geom])
    return (centre + signs * half) @ turn.T + model.geom_pos[geom]


def test_what_collides_keeps_its_shape_and_place(tmp_path):
    model = mujoco.MjModel.from_xml_string(MJCF)
    back = read_back(write_urdf(model, "thing", tmp_path))
    assert back.ngeom == 4, "the visual box has no place"
    for geom in range(3):
        assert back.geom_type[geom] == model.geom_type[geom]
        np.testing.assert_allclose(back.geom_pos[geom], model.geom_pos[geom], atol=1e-6)
        np.testing.assert_allclose(back.geom_size[geom], model.geom_size[geom], atol=1e-6)
    hull = np.sort(corners(model, 3), axis=0), np.sort(corners(back, 3), axis=0)
    np.testing.assert_allclose(hull[0], hull[1], atol=1e-5)


def test_a_capsule_becomes_a_cylinder_with_two_round_ends(tmp_path):
    model = mujoco.MjModel.from_xml_string(MJCF)
    back = read_back(write_urdf(model, "rod", tmp_path))
    assert back.geom_type.tolist() == [mujoco.mjtGeom.mjGEOM_CYLINDER] + 2 * [mujoco.mjtGeom.mjGEOM_SPHERE]
    np.testing.assert_allclose(np.abs(back.geom_pos[1:, 0]), 0.04, atol=1e-6)
    np.testing.assert_allclose(back.geom_size[0, :2], [0.01, 0.04], atol=1e-6)


def test_a_shape_without_counterpart_is_named(tmp_path):
    with pytest.raises(InputError, match=r"egg.*ELLIPSOID"):
        write_urdf(mujoco.MjModel.from_xml_string(MJCF), "egg", tmp_path)
