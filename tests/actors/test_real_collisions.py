"""The arm touches neither itself nor the table nor an obstacle, whatever it is told; MuJoCo has the last word."""

from unittest import mock

import numpy as np
import pytest
from standin import BOX

from actors.real.arm import ArmSettings, UrArm
from actors.real.collisions import Guard, load_hulls
from actors.real.collisions.shapes import bars
from actors.real.kinematics import MODELS, ArmKinematics
from actors.real.link import Link
from actors.real.safety import Limits, LimitSettings
from actors.real.stream import StreamLimiter
from benchmarks.limits.collisions import KINDS, WALL, Contacts, measure, scanned_post
from benchmarks.limits.plant import Plant
from benchmarks.limits.postures import joints_at
from protos.errors import ArmStopped, InputError
from protos.settings import from_json, to_json
from protos.space import Box
from twin.robots import UR5E
from twin.robots.base import Capsule
from twin.rotations import vector_from_matrix

POST = scanned_post()
IN_THE_WAY = Box(x=(-0.55, -0.45), y=(-0.05, 0.05), z=(0.0, 0.20))
"""A box over which the tool must be lifted to get from one side of the table to the other."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    POST.save(folder := tmp_path_factory.mktemp("objects") / "post")
    return folder


def guard(*obstacles, model="ur5e"):
    kinematics = ArmKinematics(model)
    tool = UR5E.flange_from_tcp
    kinematics.tool_position, kinematics.tool_rotation = tool[:3, 3], tool[:3, :3]
    return Guard(kinematics, model, 0.02, load_hulls(obstacles))


def pose_at(joints):
    arm = ArmKinematics("ur5e")
    tool = UR5E.flange_from_tcp
    arm.tool_position, arm.tool_rotation = tool[:3, 3], tool[:3, :3]
    at = arm.at(joints)
    return np.concatenate([at.position, vector_from_matrix(at.rotation)])


def test_targets_that_would_collide_do_not():
    result = measure(6, seed=3)
    assert result.targets.total() == 6 and set(result.targets) == set(KINDS)
    assert not result.touched
    assert result.clipped["collision"] == 6, "every one of them was slowed or held"


def test_what_touches_in_mujoco_overlaps_for_the_guard(folder):
    contacts, one, rng = Contacts(POST), guard(WALL, folder), np.random.default_rng(0)
    touching = 0
    for joints in rng.uniform(-np.pi, np.pi, (400, 6)):
        if contacts.kinds(joints):
            touching += 1
            assert one.gaps(joints[None]).min() < 0, joints
    assert 100 < touching < 400


def test_the_bars_are_the_twins_shapes():
    ours = [(bar.frame, bar.start, bar.end, bar.radius) for bar in bars(MODELS["ur5e"], UR5E.gripper)]
    for frame, link in enumerate(UR5E.links, 1):
        for part in link.parts:
            assert isinstance(part, Capsule)
            if frame > 1:  # the first link is part of the base's bar
                same = [bar for bar in ours if bar[0] == frame and np.isclose(bar[3], part.radius)]
                assert any(np.allclose(bar[1:3], (part.start, part.end), atol=0.011) for bar in same), link.name


@pytest.mark.parametrize("model", MODELS)
def test_at_home_no_arm_is_near_anything(model):
    assert guard(model=model).gaps(np.array(UR5E.home)[None]).min() > 0.04


def test_an_arm_that_is_too_near_may_only_leave():
    one, away = guard(), np.array([0.0, -0.02, 0.0, 0.0, 0.0, 0.0])
    joints = np.array([0.0, 0.0, 0.0, -1.57, -1.57, 0.0])  # stretched out
    while one.gaps(joints[None]).min() > 0.01:
        joints = joints - away / 4  # down to the table
    assert "table" in one.met(joints, -away)
    one.forget()
    assert one.met(joints, away) == ""


def test_the_clearance_is_kept_between_two_targets_too():
    """A way of half a turn is looked at all along, not at its ends alone."""
    one = guard(WALL)
    left, right = joints_at(np.array([-0.5, -0.2, 0.3]), 0.0), np.zeros(6)
    right[0] = np.pi
    assert "obstacle 0" in one.met(left, -right)


def test_fingers_come_down_to_the_table_and_are_not_slowed():
    limits = Limits(BOX, LimitSettings())
    limiter = StreamLimiter(limits, "ur5e", 50.0)
    joints = joints_at(np.array([-0.5, 0.1, 0.10]), 0.7)
    pose = pose_at(joints)
    limiter.start(pose, joints=joints, measured=pose)
    goal = pose.copy()
    goal[2] = BOX.z[0]
    for k in range(30):
        target = limiter.next(goal, now_s=1 + 0.02 * k, slice_s=0.02, left_s=0.1)
    assert target[2] == pytest.approx(BOX.z[0], abs=1e-3)
    assert limits.clipped["collision"] == 0


def test_a_move_through_an_obstacle_is_refused_and_holds_the_arm():
    plant = Plant(np.random.default_rng(0))
    plant.place(joints_at(np.array([-0.5, -0.2, 0.1]), 0.0), delay_s=0.0, gain=1.0)
    goal = pose_at(joints_at(np.array([-0.5, 0.2, 0.1]), 0.0))
    with (
        mock.patch.object(Link, "connect", lambda *_: Link(plant, plant, 30.0)),
        UrArm(ArmSettings(obstacles=(IN_THE_WAY,)), Limits(BOX, LimitSettings()), armed=True) as arm,
    ):
        arm.release()
        with pytest.raises(ArmStopped, match=r"refused a move: the \w+ and the obstacle 0 would come too close"):
            arm.move_to(goal)
        assert "refused a move" in arm.held


def test_obstacles_travel_as_settings(folder):
    settings = ArmSettings(obstacles=(IN_THE_WAY, folder))
    assert from_json(ArmSettings, to_json(settings)) == settings


def test_a_turned_box_is_where_it_was_turned_to():
    (hull,) = load_hulls([Box(x=(0.0, 2.0), y=(-0.1, 0.1), z=(0.0, 1.0), yaw=(np.pi / 2, np.pi / 2))])
    inside = lambda *point: bool((hull.planes[:, :3] @ point <= hull.planes[:, 3]).all())  # noqa: E731
    assert inside(1.0, 0.9, 0.5) and inside(1.0, -0.9, 0.5) and not inside(0.2, 0.0, 0.5)


def test_obstacles_that_are_none_are_refused_by_name(folder, tmp_path):
    with pytest.raises(InputError, match=r"obstacles: .*nowhere is no object as `twinrl cut` makes"):
        load_hulls([tmp_path / "nowhere"])
    for name in ("object.toml", "part_0.obj"):
        (tmp_path / name).write_text((folder / name).read_text())
    lines = (tmp_path / "part_0.obj").read_text().splitlines()
    turned = [" ".join([line.split()[0], *line.split()[:0:-1]]) if line.startswith("f") else line for line in lines]
    (tmp_path / "part_0.obj").write_text("\n".join(turned))
    with pytest.raises(InputError, match="not convex, or whose faces do not point out"):
        load_hulls([tmp_path])
    with pytest.raises(InputError, match=r"obstacles\[0\].*finite ranges"):
        load_hulls([Box(x=(0.0, float("inf")), y=(0.0, 1.0))])


@pytest.mark.parametrize("clearance", [0.0, 0.009, -1.0, float("nan"), 0.2])
def test_no_clearance_switches_the_guard_off(clearance):
    with pytest.raises(InputError, match=r"clearance_m.*cannot be switched off"):
        LimitSettings(clearance_m=clearance)
