import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from protos.errors import InputError
from protos.proprioception import TOOL_DOWN_VECTOR
from protos.schema import GRIPPER, TCP_POSITION, UNDER_WAY, Configuration
from twin.randomize import DEMONSTRATION_DISTURBANCE, DOMAINS, Domain
from twin.tasks.pick_and_place import CUBE

PROMPT = Domain(latency_steps=(0,))


def run_expert(twin, configurations):
    """Steps until every slot succeeded or timed out; (success, steps) per slot."""
    for slot, configuration in enumerate(configurations):
        twin.reset(slot, configuration)
    success, steps = np.zeros(twin.n, bool), np.zeros(twin.n, int)
    for _ in range(twin.task.max_steps):
        steps += ~success
        success |= twin.step(twin.expert_action()).success
        if success.all():
            break
    return success, steps


@pytest.mark.parametrize("region", ["A", "B"])
@pytest.mark.parametrize("domain", ["twin", "standin", "far"])
def test_the_expert_always_succeeds(make_twin, configurations, region, domain):
    success, steps = run_expert(make_twin(20, domain=DOMAINS[domain]), configurations(region, 20))
    assert success.sum() == 20
    assert steps.mean() < {"twin": 26, "standin": 36, "far": 40}[domain]


def test_disturbed_demonstrations_succeed_too_and_take_longer(make_twin, configurations):
    domain = replace(DOMAINS["twin"], disturbance=DEMONSTRATION_DISTURBANCE)
    success, steps = run_expert(make_twin(20, domain=domain), configurations("A", 20))
    _, calm = run_expert(make_twin(20), configurations("A", 20))
    assert success.sum() >= 19
    assert steps[success].mean() > calm.mean() + 2


def test_disturbance_moves_the_arm_but_not_the_stored_action(make_twin, configurations):
    disturbed, calm = make_twin(domain=replace(PROMPT, disturbance=1.0)), make_twin(domain=PROMPT)
    action = np.array([[0.5, 0, 0, 0, 0, 0, 1]], np.float32)
    for twin in (disturbed, calm):
        twin.reset(0, configurations("A", 1)[0])
        for _ in range(5):
            step = twin.step(action)
        np.testing.assert_array_equal(step.executed, action)
    moved = [twin.observe().proprio[0, TCP_POSITION] for twin in (disturbed, calm)]
    assert np.linalg.norm(moved[0] - moved[1]) > 0.005


def test_actions_are_clipped_and_reported_as_executed(make_twin, configurations):
    twin = make_twin(domain=PROMPT)
    twin.reset(0, configurations("A", 1)[0])
    step = twin.step(np.array([[3, -2, 0.5, 0, 0, 0, 9]], np.float32))
    np.testing.assert_allclose(step.executed, [[1, -1, 0.5, 0, 0, 0, 1]])


@pytest.mark.parametrize("latency", [0, 1, 3])
def test_latency_delays_motion_by_whole_control_steps(make_twin, configurations, latency):
    twin = make_twin(domain=Domain(latency_steps=(latency,)))
    twin.reset(0, configurations("A", 1)[0])
    start = twin.observe().proprio[0, TCP_POSITION].copy()
    up = np.array([[0, 0, 1, 0, 0, 0, 1]], np.float32)
    for k in range(latency + 1):
        twin.step(up)
        rise = twin.observe().proprio[0, 2] - start[2]
        assert (rise > 0.005) == (k == latency)


def test_latency_may_end_within_a_control_step(make_twin, configurations):
    ways = []
    for latency in (1, 1.4, 1.8, 2):
        twin = make_twin(domain=Domain(latency_steps=(latency,)))
        twin.reset(0, configurations("A", 1)[0])
        start = twin.observe().proprio[0, 2]
        for _ in range(2):
            twin.step(np.array([[0, 0, 1, 0, 0, 0, 1]], np.float32))
        ways.append(twin.observe().proprio[0, 2] - start)
    assert ways == sorted(ways, reverse=True)
    assert min(-np.diff(ways)) > 0.001


def test_the_response_is_the_share_of_the_way_made_in_one_step(make_twin, configurations):
    twins = [make_twin(domain=Domain(latency_steps=(0,), response=(share, share))) for share in (1.0, 0.6)]
    heights = []
    for twin in twins:
        twin.reset(0, configurations("A", 1)[0])
        heights.append([twin.observe().proprio[0, 2]])
        for number in range(8):
            twin.step(np.array([[0, 0, number == 0, 0, 0, 0, 1]], np.float32))
            heights[-1].append(twin.observe().proprio[0, 2])
    prompt, slow = np.array(heights) - heights[0][0]
    left = (prompt[-1] - slow[2:5]) / prompt[-1]
    np.testing.assert_allclose(left[1:] / left[:-1], 0.4, atol=0.03)
    assert slow[-1] == pytest.approx(prompt[-1], abs=1e-4)


@pytest.mark.parametrize("latency", [0, 1, 1.6, 3])
def test_the_proprioception_tells_motion_that_is_still_under_way(make_twin, configurations, latency):
    twin = make_twin(domain=Domain(latency_steps=(latency,)))
    twin.reset(0, configurations("A", 1)[0])
    start = twin.observe().proprio[0, TCP_POSITION]
    for step in range(1, 4):
        twin.step(np.array([[0.2, -0.1, 0, 0, 0, 0, 1]], np.float32))
        seen = twin.observe().proprio[0]
        goal = start + step * twin.task.action_scale[0] * np.array([0.2, -0.1, 0])
        np.testing.assert_allclose(seen[TCP_POSITION] + seen[UNDER_WAY][:3], goal, atol=1e-3)
    assert np.linalg.norm(seen[UNDER_WAY][:3]) > min(latency, 3) * 0.2 * twin.task.action_scale[0]


def test_latency_is_drawn_anew_per_episode(make_twin, configurations):
    twin = make_twin()
    up = np.array([[0, 0, 1, 0, 0, 0, 1]], np.float32)
    seen = set()
    for configuration in configurations("A", 12):
        twin.reset(0, configuration)
        before = twin.observe().proprio[0, 2]
        twin.step(up)
        seen.add(bool(twin.observe().proprio[0, 2] - before > 0.005))
    assert seen == {True, False}


def test_proprioception_right_after_a_reset(make_twin, task, configurations):
    twin = make_twin(3)
    for _ in range(3):
        twin.step(np.tile(np.array([1, 1, -1, 0, 0, 0, -1], np.float32), (3, 1)))
    moving = twin.observe()
    configuration = configurations("B", 1)[0]
    twin.reset(1, configuration)
    fresh = twin.observe()
    np.testing.assert_allclose(fresh.proprio[1, TCP_POSITION], task.pose(configuration, "tool")[:3], atol=1e-4)
    np.testing.assert_allclose(fresh.proprio[1, 3:6], TOOL_DOWN_VECTOR, atol=1e-3)
    np.testing.assert_allclose(fresh.proprio[1, 6:18], 0, atol=1e-6)
    assert fresh.proprio[1, GRIPPER] == pytest.approx(1)
    assert (fresh.side[1] != moving.side[1]).any()
    for slot in (0, 2):
        np.testing.assert_array_equal(fresh.proprio[slot], moving.proprio[slot])
        np.testing.assert_array_equal(fresh.side[slot], moving.side[slot])


def test_observations_are_copies(make_twin):
    twin = make_twin()
    first = twin.observe()
    kept = first.copy()
    twin.step(np.array([[1, 1, -1, 0, 0, 0, -1]], np.float32))
    twin.observe()
    np.testing.assert_array_equal(first.side, kept.side)
    np.testing.assert_array_equal(first.proprio, kept.proprio)


def test_the_carried_cube_does_not_slip(make_twin, configurations):
    twin = make_twin(8, domain=PROMPT)
    for slot, configuration in enumerate(configurations("A", 8)):
        twin.reset(slot, configuration)
    slips, before = [], None
    for _ in range(24):
        action = twin.expert_action()
        twin.step(action)
        state = twin.state()
        offset = state.bodies[CUBE] - state.tool
        carried = state.closing & (state.bodies[CUBE][:, 2] > 0.03)
        if before is not None:
            slips += np.linalg.norm(offset - before[0], axis=1)[carried & before[1]].tolist()
        before = offset.copy(), carried
    assert len(slips) > 40
    assert np.mean(slips) < 0.5e-3
    assert np.max(slips) < 1e-3


def test_the_wrench_weighs_the_held_cube(make_twin, task, configurations):
    twin = make_twin(domain=replace(PROMPT, object_mass_kg=(0.5, 0.5), friction=(3.0, 3.0)))
    configuration = configurations("A", 1)[0]
    x, y, _, _ = task.pose(configuration, CUBE)
    poses = dict(configuration.poses) | {"tool": (x, y, 0.02, 0.0)}
    twin.reset(0, Configuration(region="A", poses=poses))
    close = np.array([[0, 0, 0, 0, 0, 0, -1]], np.float32)
    for _ in range(5):
        twin.step(close)
    empty = twin.observe().proprio[0, 14]
    for _ in range(3):
        twin.step(np.array([[0, 0, 0.3, 0, 0, 0, -1]], np.float32))
    for _ in range(10):
        twin.step(close)
    lifted = twin.observe().proprio[0]
    assert twin.state().bodies[CUBE][0, 2] > 0.03
    assert abs(empty) < 2
    assert lifted[14] == pytest.approx(-0.5 * 9.81, rel=0.1)


def test_success_needs_two_steps_in_a_row_and_time_runs_out(make_twin, task, configurations):
    twin = make_twin(domain=PROMPT)
    configuration = configurations("A", 1)[0]
    x, y, _, yaw = task.pose(configuration, "target")
    twin.reset(0, replace(configuration, poses=dict(configuration.poses) | {CUBE: (x, y, 0.02, yaw)}))
    idle = np.array([[0, 0, 0, 0, 0, 0, 1]], np.float32)
    first, second = twin.step(idle), twin.step(idle)
    assert not first.terminated[0]
    assert second.terminated[0] and second.success[0] and second.reward[0] == 1.0
    twin.reset(0, configuration)
    steps = [twin.step(idle) for _ in range(task.max_steps)]
    assert [bool(step.truncated[0]) for step in steps] == [False] * (task.max_steps - 1) + [True]
    assert not any(step.terminated[0] for step in steps)


def test_worlds_with_the_same_seed_are_the_same(make_twin, configurations):
    domain = replace(DOMAINS["twin"], disturbance=0.5)
    rows = []
    for _ in range(2):
        twin = make_twin(2, domain=domain, seed=7)
        for slot, configuration in enumerate(configurations("A", 2)):
            twin.reset(slot, configuration)
        for _ in range(6):
            twin.step(twin.expert_action())
        rows.append(twin.observe())
    np.testing.assert_array_equal(rows[0].proprio, rows[1].proprio)
    np.testing.assert_array_equal(rows[0].side, rows[1].side)


def test_a_broken_slot_shows_nan_and_a_reset_heals_it(make_twin, configurations):
    twin = make_twin(2)
    twin._physics._qpos[1] = np.nan
    twin.step(np.zeros((2, 7), np.float32))
    assert twin.observe().bad_rows().tolist() == [1]
    twin.step(np.zeros((2, 7), np.float32))
    twin.reset(1, configurations("A", 1)[0])
    twin.step(np.zeros((2, 7), np.float32))
    assert not len(twin.observe().bad_rows())


@pytest.mark.parametrize(
    "call",
    [
        lambda twin, start: twin.step(np.zeros((2, 7), np.float32)),
        lambda twin, start: twin.step(np.full((1, 7), np.nan, np.float32)),
        lambda twin, start: twin.reset(1, start),
        lambda twin, start: twin.reset(0, Configuration(region="A", poses={"cube": (0, 0, 0, 0)})),
    ],
)
def test_wrong_input_is_refused(make_twin, configurations, call):
    with pytest.raises(InputError):
        call(make_twin(), configurations("A", 1)[0])


def test_the_twin_imports_no_torch():
    code = "import twin.env, twin.world, twin.gym, sys; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
