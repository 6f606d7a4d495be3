"""This module tests distances against hand-computed ones, and each reason by a path that has only it."""

from dataclasses import replace

import numpy as np
import pytest
from expansion_samples import OLD, configuration, demonstration

from twin import robots, tasks
from twin.camera import pose_of
from twin.expand import Expander, ExpansionSettings, Plan, Reason
from twin.expand.checks import Clearance, PathChecks
from twin.expand.demonstration import body_poses
from twin.expand.path import ToolPath
from twin.kinematics import Kinematics
from twin.randomize import Domain
from twin.rotations import TOOL_DOWN, about_z
from twin.tasks.pick_and_place import CUBE_HALF_M

UR5E, FR3 = robots.get("ur5e"), robots.get("fr3")
TASK = tasks.get("pick_and_place")
POSES = body_poses(TASK, configuration())


def tip_below_tcp(robot):
    gripper = robot.gripper
    return gripper.finger_centre_m + gripper.finger_half_m[2] - gripper.tcp_m


def straight(a, b, count=20, rotation=TOOL_DOWN, closed=False):
    positions = np.linspace(a, b, count)
    return ToolPath(
        positions=positions, rotations=np.broadcast_to(rotation, (count, 3, 3)), closed=np.full(count, closed)
    )


def checks(robot=UR5E, task=TASK, clearance_m=ExpansionSettings.clearance_m):
    return PathChecks(robot, task, Domain(), clearance_m)


@pytest.mark.parametrize("robot", [UR5E, FR3], ids=lambda robot: robot.name)
def test_distances_of_the_fingers_are_those_of_a_ruler(robot):
    world, kinematics = Clearance(robot, TASK, Domain()), Kinematics(robot)
    world.place(POSES)
    x, y, _, _ = OLD["cube"]
    world.move(kinematics.start_joints((x, y, 0.15))[0], 0.0)
    tip_m = 0.15 - tip_below_tcp(robot)
    assert world.of_fingers(("cube",), 1.0) == pytest.approx(tip_m - 2 * CUBE_HALF_M, abs=1e-4)
    assert world.of_fingers((), 1.0) == pytest.approx(tip_m, abs=1e-4)
    assert world.of_fingers(("cube",), 0.01) == 0.01


def test_a_held_body_counts_where_it_is_held():
    world = Clearance(UR5E, TASK, Domain())
    world.place(POSES | {"cube": pose_of((-0.5, 0, 0.1), about_z(0.3))})
    world.move(Kinematics(UR5E).start_joints((-0.5, 0.0, 0.1))[0], 0.5)
    assert world.of_held("cube", ("target",), 1.0) == pytest.approx(0.1 - CUBE_HALF_M, abs=1e-4)


def test_a_free_motion_keeps_its_distance_from_the_cube_and_the_table():
    x, y, _, _ = OLD["cube"]
    over, through = [straight((x, y - 0.15, z), (x, y + 0.15, z)) for z in (0.09, 0.03)]
    assert checks().is_free(over, POSES, {})
    assert not checks().is_free(through, POSES, {})
    low = straight((x, y - 0.25, 0.014), (x, y - 0.15, 0.014))
    assert checks(clearance_m=0.001).is_free(low, POSES, {})
    assert not checks(clearance_m=0.02).is_free(low, POSES, {})
    assert not checks().is_free(straight((x, y - 0.15, 0.03), (x, y + 0.15, 0.03), count=2), POSES, {})
    away = POSES | {"cube": pose_of((x, y - 0.6, 0.018), np.eye(3))}
    assert checks().is_free(through, away, {})
    carried = {"cube": pose_of((0, 0, 0.06), np.eye(3))}  # 6 cm below the tool: it would be dragged over the table
    assert not checks().is_free(straight((x, -0.1, 0.08), (x, 0.1, 0.08)), POSES, carried)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (straight((-0.5, 0.0, 0.15), (-0.5, 0.1, 0.15)), None),
        (straight((-0.5, 0.0, 0.15), (-0.5, 0.5, 0.15)), Reason.WORK_BOX),
        (straight((-0.5, 0.0, 0.15), (-0.5, 0.1, 0.15), count=61), Reason.TOO_LONG),
        (straight((-0.5, 0.0, 0.15), (-0.5, 0.0, 0.006)), Reason.COLLISION),
    ],
)
def test_every_reason_is_found(path, reason):
    roomy = replace(TASK, work_box=replace(TASK.work_box, z=(0.0, 0.24)))
    assert checks(task=roomy).reason(path, POSES) is reason


def test_what_the_arm_cannot_reach_is_told_from_what_a_joint_does_not_allow():
    everywhere = replace(TASK, work_box=replace(TASK.work_box, x=(-3.0, 3.0), y=(-3.0, 3.0), z=(0.0, 3.0)))
    assert checks(task=everywhere).reason(straight((-0.5, 0, 0.15), (-1.5, 0, 0.15)), POSES) is Reason.REACH
    spin = np.stack([about_z(angle) @ TOOL_DOWN for angle in np.linspace(0, 4, 40)])
    place = np.tile((-0.5, 0.0, 0.2), (40, 1))
    around = ToolPath(positions=place, rotations=spin, closed=np.zeros(40, bool))
    assert checks(FR3, everywhere).reason(around, POSES) is Reason.JOINT_LIMIT


def expander(task=TASK, **settings):
    return Expander(UR5E, task, [demonstration()], domain=Domain(), settings=ExpansionSettings(**settings), seed=0)


@pytest.mark.parametrize("planned", [0.0, 1.0])
def test_a_plan_starts_at_the_tool_and_meets_object_and_target(planned):
    rng = np.random.default_rng(0)
    for region in ("A", "B"):
        start = TASK.space.sample(rng, region=region)
        plan = expander(planned=planned).plan(start)
        assert isinstance(plan, Plan)
        assert plan.planned == (2 if planned else 0)
        edges = np.flatnonzero(np.diff(plan.path.closed.astype(int)))
        grasp, release = plan.path.positions[edges + 1]
        np.testing.assert_allclose(plan.path.positions[0], start.poses["tool"][:3], atol=1e-9)
        np.testing.assert_allclose(grasp[:2], start.poses["cube"][:2], atol=1e-6)
        np.testing.assert_allclose(release[:2], start.poses["target"][:2], atol=1e-6)
        step = np.abs(np.diff(plan.path.positions, axis=0)).max()
        assert step <= TASK.action_scale[0] + 1e-9


def test_a_turned_cube_is_refused_where_the_tool_does_not_turn():
    turned = configuration(cube=(-0.55, 0.10, 0.018, 0.6))
    assert expander().plan(turned) == Reason.TURN
    turning = replace(TASK, action_scale=(0.03, 0.2))
    assert isinstance(expander(turning).plan(turned), Plan)


def test_a_motion_that_comes_too_near_is_planned_anew_and_one_without_a_way_refused():
    on_the_way = configuration(tool=(-0.55, -0.05, 0.05, 0.0))
    plan = expander(planned=0.0).plan(on_the_way)
    assert isinstance(plan, Plan)
    blocked = expander(planned=0.0, clearance_m=0.1).plan(configuration())
    assert blocked == Reason.NO_PATH
