"""Twin demonstrations from hand-made ones: kept episodes, counts, and the content of a kept episode."""

import numpy as np
import pytest
from expansion_samples import configuration, demonstration, episode

from actors.sim import ExpansionPlan, TwinWorld
from actors.sim.expansion import check_complete, expand_in_twin, usable
from protos.errors import InputError, TwinRLError
from protos.schema import GRIPPER_ACTION, TCP_POSITION, Outcome, Schema, Source
from twin import tasks
from twin.expand import Coverage, ExpansionSettings, Reason
from twin.scene import synthetic_scene

TASK = tasks.get("pick_and_place")
SMALL = Schema(side_px=16, wrist_px=16)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    synthetic_scene(0.03).save(folder)
    return TwinWorld(scene=folder, schema=SMALL)


def made(world, plan, demonstrations=None):
    episodes = []
    coverage = expand_in_twin(world, demonstrations or [demonstration()], plan, episodes.append)
    return episodes, coverage


def test_both_regions_get_exactly_what_was_asked_from_one_demonstration(world):
    episodes, coverage = made(world, ExpansionPlan(episodes={"A": 5, "B": 4}, twins=6, disturbance=0.1))
    regions = [segments[0].configuration.region for segments in episodes]
    assert sorted(regions) == ["A"] * 5 + ["B"] * 4
    assert coverage.kept == 9
    assert len({segments[0].configuration.cell for segments in episodes}) == 9  # each in a cell of its own
    for segments in episodes:
        assert [s.outcome for s in segments[:-1]] == [Outcome.RUNNING] * (len(segments) - 1)
        assert segments[-1].outcome is Outcome.SUCCESS
        assert all(s.source is Source.TWIN and s.human.all() for s in segments)
        assert sum(s.reward.sum() for s in segments) == 1
        actions = np.concatenate([s.action for s in segments])
        assert np.abs(actions).max() <= 1
        assert set(np.sign(actions[:, GRIPPER_ACTION])) == {-1, 1}
        start = segments[0].observation.proprio[0, TCP_POSITION]
        np.testing.assert_allclose(start, segments[0].configuration.poses["tool"][:3], atol=5e-3)


def test_the_same_seed_gives_the_same_demonstrations(world):
    plan = ExpansionPlan(episodes={"B": 3}, twins=2)
    (first, _), (again, _) = made(world, plan), made(world, plan)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one[0].action, other[0].action)
        np.testing.assert_array_equal(one[0].observation.side, other[0].observation.side)


def test_a_demonstration_that_misses_the_object_makes_none_and_says_why(world):
    beside = demonstration(cube=(-0.55, 0.10, 0.018, 0.0))
    wrong = type(beside)(name="beside", configuration=configuration(cube=(-0.55, 0.16, 0.018, 0.0)), path=beside.path)
    plan = ExpansionPlan(episodes={"A": 2}, twins=2, how=ExpansionSettings(tries_per_episode=2))
    episodes, coverage = made(world, plan, [wrong])
    assert episodes == []
    assert coverage.reasons == {Reason.NOT_DONE: coverage.reasons[Reason.NOT_DONE]}
    assert 4 <= coverage.reasons[Reason.NOT_DONE] <= 5  # two may be under way at once
    with pytest.raises(TwinRLError, match=r"0 of 2 twin demonstrations accepted.*not done"):
        check_complete(coverage, plan)


def test_plans_that_are_refused_count_too(world):
    plan = ExpansionPlan(
        episodes={"A": 1}, twins=1, how=ExpansionSettings(clearance_m=0.1, attempts=2, tries_per_episode=4)
    )
    _, coverage = made(world, plan)
    assert set(coverage.reasons) == {Reason.NO_PATH}
    assert sum(coverage.reasons.values()) >= 4


def test_an_unknown_region_is_refused_with_the_choices(world):
    with pytest.raises(InputError, match="region 'C': choose one of A, B"):
        made(world, ExpansionPlan(episodes={"C": 1}))


def test_episodes_that_cannot_be_expanded_are_left_out_and_the_reason_told(caplog):
    action = np.zeros((4, 7), np.float32)
    action[:, GRIPPER_ACTION] = 1.0
    nothing = episode("open", configuration(), np.zeros((5, 25), np.float32), action)
    with pytest.raises(InputError, match=r"none of 1 successful episodes.*never closes"):
        usable(TASK, [nothing], ExpansionPlan())
    assert "left out: demonstration open" in caplog.text


def test_the_table_and_the_json_tell_the_same():
    coverage = Coverage(space=TASK.space)
    for cell, reason in ((0, None), (0, Reason.REACH), (21, None), (21, None), (39, Reason.NOT_DONE)):
        if reason is None:
            coverage.accept(cell)
        else:
            coverage.reject(cell, reason)
    told = coverage.to_json()
    assert (told["accepted"], told["tried"], told["regions"]) == (3, 5, {"A": 1, "B": 2})
    assert told["rejected"] == {"reach": 1, "not done": 1}
    assert told["cells"][0] == {"cell": 0, "region": "A", "accepted": 1, "rejected": {"reach": 1}}
    table = coverage.table()
    assert "region A: 1 accepted of 2, 1 of 20 cells" in table
    assert "region B: 2 accepted of 3, 1 of 20 cells" in table
    assert "  1/2     0/0" in table
    assert table.endswith("not kept: 1 reach, 1 not done")
    assert coverage.rate == pytest.approx(0.6)
