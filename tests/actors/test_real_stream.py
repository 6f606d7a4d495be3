"""Streamed targets keep to their limits from one to the next, whatever is asked for and however late."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from standin import BOX

from actors.real.kinematics import MODELS, ArmKinematics, model_error
from actors.real.safety import CRAWL_M_S, Limits, LimitSettings, angle_between
from actors.real.stream import JOINT_SPEED_SHARE, StreamLimiter
from benchmarks.limits.postures import any_posture
from benchmarks.limits.run import LimitsBench, check, measure
from protos.proprioception import TOOL_DOWN_VECTOR
from protos.space import Box
from twin.kinematics import Kinematics
from twin.robots import UR5E
from twin.rotations import TOOL_DOWN, about_z, heading, matrix_from_vector, turn_between, vector_from_matrix

HZ = 50.0
SLICE_S = 1 / HZ
ARM = Kinematics(UR5E)


def limiter_at(position, yaw=0.0, stream_hz=HZ):
    """Returns a limiter at rest, its limits, and the pose."""
    limits = Limits(BOX, LimitSettings())
    joints = ARM.start_joints(np.array(position), yaw)[0]
    place, rotation = ARM.forward(joints[None])
    pose = np.concatenate([place[0], vector_from_matrix(rotation[0])])
    limiter = StreamLimiter(limits, "ur5e", stream_hz)
    limiter.start(pose, joints=joints, measured=pose)
    return limiter, limits, pose


def goal_at(pose, way=(0, 0, 0), yaw=0.0):
    turned = about_z(yaw) @ matrix_from_vector(pose[3:])
    return np.concatenate([pose[:3] + way, vector_from_matrix(turned)])


def joints_of(pose, near):
    """Returns the joints at a pose, by the twin's kinematics."""
    found = near[None]
    for _ in range(30):
        found = ARM.inverse(found, pose[None, :3], matrix_from_vector(pose[3:]), iterations=1, damping=1e-10)
    return found[0]


def stream(limiter, goal, times, period_s=0.1):
    """Streams one period's targets at robot times; returns them."""
    ends = times[0] + period_s
    return [limiter.next(goal, now_s=t, slice_s=SLICE_S, left_s=ends - t) for t in times]


@pytest.mark.parametrize("model", MODELS)
def test_joints_are_followed_and_missed_by_nothing(model):
    arm, rng = ArmKinematics(model), np.random.default_rng(0)
    joints = np.array([0.1, -1.2, 1.6, -1.9, -1.5, 0.4])
    arm.fit_tool(joints, arm.at(joints).position - 0.17 * np.eye(3)[2], arm.at(joints).rotation)
    moved = arm.at(joints + rng.normal(0, 0.02, 6))
    found = arm.follow(joints, moved.position, moved.rotation)
    np.testing.assert_allclose(found.joints, moved.joints, atol=1e-8)
    assert arm.follow(joints, moved.position * 3, moved.rotation) is None, "out of reach"


def test_the_geometry_is_the_twins():
    rng = np.random.default_rng(1)
    for joints in rng.uniform(-3, 3, (50, 6)):
        position, rotation = ARM.forward(joints[None])
        pose = np.concatenate([position[0], vector_from_matrix(rotation[0])])
        tool = UR5E.flange_from_tcp
        offset = np.concatenate([tool[:3, 3], vector_from_matrix(tool[:3, :3])])
        metres, radians = model_error("ur5e", joints, pose, offset)
        assert metres < 1e-9 and radians < 1e-6
        assert model_error("ur10e", joints, pose, offset)[0] > 0.01
        assert model_error("ur5e", joints, pose, offset + 0.02 * np.eye(6)[2])[0] == pytest.approx(0.02)


@pytest.mark.parametrize("way", [(0.03, 0, 0), (-0.03, 0.03, 0), (0, 0, 0.02)])
def test_a_full_action_arrives_within_its_period(way):
    limiter, limits, pose = limiter_at((-0.5, 0.0, 0.12))
    goal = goal_at(pose, way, 0.1)
    targets = stream(limiter, goal, np.arange(5) * SLICE_S + 1)
    np.testing.assert_allclose(targets[-1][:3], goal[:3], atol=2e-3)
    assert angle_between(targets[-1], goal) < 0.02
    assert not sum(limits.clipped.values())


def test_a_reversal_takes_a_few_targets_and_arrives():
    limiter, _, pose = limiter_at((-0.5, 0.0, 0.12))
    times = np.arange(5) * SLICE_S + 1
    stream(limiter, goal_at(pose, (0, 0.03, 0)), times)
    targets = stream(limiter, pose, times + 0.1)
    assert max(target[1] for target in targets) < pose[1] + 0.034
    np.testing.assert_allclose(targets[-1][:3], pose[:3], atol=3e-3)


@settings(max_examples=60, deadline=None)
@given(
    ways=arrays(float, (8, 3), elements=st.floats(-0.1, 0.1)),
    yaws=arrays(float, 8, elements=st.floats(-3, 3)),
    gaps=arrays(float, (8, 5), elements=st.floats(0.0, 0.09)),
    gentle=arrays(bool, 8),
)
def test_neither_late_nor_wild_goals_break_a_limit(ways, yaws, gaps, gentle):
    limiter, limits, pose = limiter_at((-0.5, 0.0, 0.12))
    before, velocity, spin, t = pose, np.zeros(3), 0.0, 1.0
    for way, yaw, waits, is_gentle in zip(ways, yaws, gaps, gentle.tolist(), strict=True):
        goal = goal_at(before, way, yaw)
        goal[:3] = np.clip(goal[:3], limits.low, limits.high)
        for wait in waits:
            gap = SLICE_S + wait * (wait > 0.05)
            t += gap
            target = limiter.next(goal, now_s=t, slice_s=SLICE_S, left_s=0.03, is_gentle=is_gentle)
            speed = np.linalg.norm(target[:3] - before[:3]) / SLICE_S
            turning = angle_between(target, before) / SLICE_S
            assert speed <= 0.6 + 1e-9 and turning <= 1.5 + 1e-6
            now = (target[:3] - before[:3]) / SLICE_S
            was, was_spin = (np.zeros(3), 0.0) if gap > 2.1 * SLICE_S else (velocity, spin)
            assert np.linalg.norm(now - was) <= 20.0 * SLICE_S + 1e-6
            assert turning - was_spin <= 50.0 * SLICE_S + 1e-6
            assert limits.outside(target[:3]) <= 1e-9
            before, velocity, spin = target, now, turning


@pytest.mark.parametrize("stream_hz", [50.0, 125.0, 500.0])
def test_a_gentle_stream_turns_round_in_small_steps_and_arrives(stream_hz):
    """The pose goes one way at 0.3 m/s and 1 rad/s; then a goal behind it asks for the other way."""
    limiter, _, pose = limiter_at((-0.5, 0.0, 0.12), stream_hz=stream_hz)
    slice_s, t = 1 / stream_hz, 1.0
    targets = []
    goals = [(0.03 * k, 0.1 * k, False) for k in range(1, 4)] + [
        (0.06 - 0.03 * k, 0.2 - 0.1 * k, True) for k in range(5)
    ]
    for y, yaw, is_gentle in [*goals, *[goals[-1]] * 3]:
        for done in range(slices := round(0.1 * stream_hz)):
            goal = goal_at(pose, (0, y, 0), yaw)
            left_s = (slices - done) * slice_s
            targets.append(limiter.next(goal, now_s=t, slice_s=slice_s, left_s=left_s, is_gentle=is_gentle))
            t += slice_s
    first = 3 * slices - 2
    velocities = np.diff([target[:3] for target in targets], axis=0)[first:] / slice_s
    spins = [angle_between(a, b) / slice_s for a, b in itertools.pairwise(targets)][first:]
    assert np.linalg.norm(np.diff(velocities, axis=0), axis=1).max() < 0.1
    assert np.abs(np.diff(spins)).max() < 0.41
    np.testing.assert_allclose(targets[-1][:3], goal[:3], atol=1e-3)
    assert angle_between(targets[-1], goal) < 0.01


def test_time_that_was_lost_is_not_made_up_for():
    limiter, _, pose = limiter_at((-0.5, 0.0, 0.12))
    goal = goal_at(pose, (0, 0.1, 0))
    times = [1.0, 1.02, 1.04, 1.13, 1.15]
    targets = [limiter.next(goal, now_s=t, slice_s=SLICE_S, left_s=0.1)[1] for t in times]
    steps = np.diff(targets)
    assert steps.max() <= 0.6 * SLICE_S + 1e-9
    assert steps[2] <= 20 * SLICE_S**2 + 1e-9, "after 90 ms it starts from rest"


def test_a_target_before_the_clock_has_moved_on_is_the_same():
    limiter, _, pose = limiter_at((-0.5, 0.0, 0.12))
    goal = goal_at(pose, (0, 0.03, 0))
    first = limiter.next(goal, now_s=1.0, slice_s=SLICE_S, left_s=0.1)
    np.testing.assert_array_equal(limiter.next(goal, now_s=1.0, slice_s=SLICE_S, left_s=0.1), first)


def test_a_tool_outside_the_box_crawls_until_it_is_inside():
    limiter, limits, pose = limiter_at((-0.5, 0.0, 0.30))
    goal = goal_at(pose, (0, 0, -0.09))
    heights = [pose[2]]
    for k in range(300):
        heights.append(limiter.next(goal, now_s=1 + k * SLICE_S, slice_s=SLICE_S, left_s=0.1)[2])
    down = -np.diff(heights) / SLICE_S
    outside = np.array(heights[:-1]) > limits.high[2] + 1e-6
    assert outside.any() and not outside[-1]
    assert down[outside].max() <= CRAWL_M_S + 1e-9 < down[~outside].max()
    assert limits.clipped["crawl"] == outside.sum()


def test_near_a_singularity_the_target_is_slowed_to_what_the_joints_can_do():
    limits = Limits(BOX, LimitSettings())
    joints = np.array([0.0, -1.2, 1.6, -1.97, -0.05, np.pi])  # the wrist is almost straight
    place, rotation = ARM.forward(joints[None])
    pose = np.concatenate([place[0], vector_from_matrix(rotation[0])])
    limiter = StreamLimiter(Limits(Box(x=(-1, 1), y=(-1, 1), z=(-1, 1)), limits.settings), "ur5e", HZ)
    limiter.start(pose, joints=joints, measured=pose)
    goal, before, slowed = goal_at(pose, (0.0, 0.05, 0.05), 0.5), joints, 0
    for k in range(20):
        target = limiter.next(goal, now_s=1 + k * SLICE_S, slice_s=SLICE_S, left_s=0.1)
        found = joints_of(target, before)
        assert np.abs(found - before).max() / SLICE_S <= (JOINT_SPEED_SHARE + 0.002) * np.pi
        before, slowed = found, slowed + limiter.is_slowed_by_joints
    assert slowed > 0


@pytest.mark.parametrize(
    ("seed", "hz", "hard"), [(0, 50.0, 20.0), (1, 50.0, 20.0), (2, 50.0, 2.0), (3, 250.0, 20.0), (4, 50.0, 0.5)]
)
def test_from_any_posture_braking_is_bounded_and_no_joint_too_fast(seed, hz, hard):
    rng = np.random.default_rng(seed)
    limits = Limits(BOX, LimitSettings(acceleration_m_s2=hard, acceleration_rad_s2=2.5 * hard))
    slowed = 0
    for _ in range(12):
        joints = any_posture(limits.low, limits.high, rng)
        place, rotation = ARM.forward(joints[None])
        before = np.concatenate([place[0], vector_from_matrix(rotation[0])])
        limiter = StreamLimiter(limits, "ur5e", hz)
        limiter.start(before, joints=joints, measured=before)
        velocity, t = np.zeros(6), 1.0
        for _ in range(6):
            way, turn = rng.uniform(-0.1, 0.1, 3), rng.uniform(-0.3, 0.3, 3)
            goal = np.concatenate(
                [
                    np.clip(before[:3] + way, limits.low, limits.high),
                    vector_from_matrix(matrix_from_vector(turn) @ matrix_from_vector(before[3:])),
                ]
            )
            for k in range(int(hz / 10)):
                dt = rng.choice([1.0, rng.uniform(0.3, 1)]) / hz
                target = limiter.next(goal, now_s=t, slice_s=dt, left_s=0.1 - 0.09 * k * 10 / hz)
                rotation, t = matrix_from_vector(before[3:]), t + 1 / hz
                turned = turn_between(rotation, matrix_from_vector(target[3:]))
                now = np.concatenate([target[:3] - before[:3], turned]) / dt
                assert np.linalg.norm((now - velocity)[:3]) / dt <= hard + 1e-6
                assert np.linalg.norm((now - velocity)[3:]) / dt <= 2.5 * hard + 1e-4
                found = joints_of(target, joints)
                assert np.abs(found - joints).max() / dt <= (JOINT_SPEED_SHARE + 0.01) * np.pi
                assert limits.outside(target[:3]) <= 1e-9
                before, joints, velocity = target, found, now
            slowed += limiter.is_slowed_by_joints
    assert slowed > 0 and limits.clipped["hard stop"] == 0


def test_a_stream_that_cannot_start_where_it_was_told_starts_where_the_arm_is():
    joints = np.array([0.0, -1.2, 1.6, -1.97, 0.0, np.pi])  # the wrist is straight
    place, rotation = ARM.forward(joints[None])
    measured = np.concatenate([place[0], vector_from_matrix(rotation[0])])
    limiter = StreamLimiter(Limits(Box(x=(-1, 1), y=(-1, 1), z=(-1, 1)), LimitSettings()), "ur5e", HZ)
    begin = goal_at(measured, (0.003, 0.003, 0.003), 0.02)
    limiter.start(begin, joints=joints, measured=measured)
    np.testing.assert_array_equal(limiter.pose, measured)


def test_a_joint_near_its_end_is_not_turned_on():
    joints = ARM.start_joints(np.array([-0.5, 0.25, 0.12]), 0.0)[0]
    joints[5] += 2 * np.pi - 0.3 - joints[5]  # the same tool, turned: 0.3 rad before the end of the range
    place, rotation = ARM.forward(joints[None])
    pose = np.concatenate([place[0], vector_from_matrix(rotation[0])])
    limits = Limits(BOX, LimitSettings())
    limiter = StreamLimiter(limits, "ur5e", HZ)
    limiter.start(pose, joints=joints, measured=pose)
    for side in (1, -1):
        goal = goal_at(pose, yaw=0.4 * side)
        for k in range(40):
            target = limiter.next(goal, now_s=1 + (40 * (side < 0) + k) * SLICE_S, slice_s=SLICE_S, left_s=0.1)
        turned = np.abs(heading(matrix_from_vector(target[3:])) - heading(matrix_from_vector(pose[3:])))
        turned = min(turned, 2 * np.pi - turned)
        assert turned <= 0.4 + 1e-6
    assert limits.clipped["joints"] > 0


def test_adversarial_actions_on_the_driver_break_no_bound():
    outcome = measure(LimitsBench(actions=1600, seed=5))
    check(outcome)
    assert outcome.actions >= 1600 and outcome.held > 0 and outcome.extremes.pairs > 5000


def test_tool_down_is_what_the_limits_take_for_upright():
    np.testing.assert_allclose(matrix_from_vector(TOOL_DOWN_VECTOR), TOOL_DOWN, atol=1e-12)
