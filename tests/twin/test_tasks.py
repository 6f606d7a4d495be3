import numpy as np
import pytest
from situations import situation

from protos.errors import InputError
from twin import tasks
from twin.expert import PickState, pick_and_place
from twin.randomize import Domain


def test_regions_mirror_each_other_and_lie_in_the_work_box(task):
    a, b = task.space.regions["A"], task.space.regions["B"]
    assert a.x == b.x and a.y == (-b.y[1], -b.y[0])
    for box in (a, b, *task.space.others.values()):
        for axis in ("x", "y"):
            low, high = getattr(task.work_box, axis)
            assert low <= getattr(box, axis)[0] <= getattr(box, axis)[1] <= high


def test_an_unknown_task_is_refused_with_the_choices():
    with pytest.raises(InputError, match="pick_and_place"):
        tasks.get("juggle")
    assert tasks.names() == ("pick_and_place",)


@pytest.mark.parametrize(
    ("cube", "closing", "done"),
    [
        ((-0.39, 0.0, 0.02), False, True),
        ((-0.39, 0.034, 0.02), False, True),
        ((-0.39, 0.036, 0.02), False, False),
        ((-0.39, 0.0, 0.031), False, False),
        ((-0.39, 0.0, 0.02), True, False),
    ],
)
def test_success_is_near_low_and_released(task, cube, closing, done):
    state = situation(bodies={"cube": cube, "target": (-0.39, 0.0, 0.001)}, closing=closing)
    assert task.succeeded(state).tolist() == [done]


def pick(tool, cube, target=(-0.39, 0.0, 0.001), *, width=0.08, closing=False):
    tool = np.array([tool], float)
    state = PickState(
        tool=tool,
        commanded=tool.copy(),
        grasp_width=np.array([width]),
        closing=np.array([closing]),
        object_position=np.array([cube], float),
        target=np.array([target], float),
    )
    return pick_and_place(state)[0]


def test_the_expert_reaches_closes_carries_and_releases():
    cube = (-0.55, 0.10, 0.018)
    reach = pick((-0.55, 0.0, 0.15), cube)
    assert reach[1] == 1 and reach[6] == 1
    assert pick((-0.55, 0.10, 0.016), cube)[6] == -1
    carry = pick((-0.55, 0.10, 0.05), (-0.55, 0.10, 0.052), width=0.046, closing=True)
    assert carry[2] > 0.5 and carry[0] > 0 and carry[6] == -1
    over = pick((-0.39, 0.0, 0.016), (-0.39, 0.0, 0.02), width=0.046, closing=True)
    assert over[6] == 1 and np.allclose(over[:3], 0)
    leave = pick((-0.39, 0.0, 0.016), (-0.39, 0.0, 0.018), width=0.06)
    assert leave[2] == 1 and leave[6] == 1


def test_the_expert_reopens_after_a_missed_grasp():
    action = pick((-0.50, 0.10, 0.016), (-0.55, 0.10, 0.018), width=0.0, closing=True)
    assert action[2] == 1 and action[6] == 1


def test_the_reach_has_no_jumps():
    cube = np.array([-0.55, 0.10, 0.018])
    offsets = np.linspace(0, 0.1, 200)
    heights = [pick(cube + np.array([0, d, 0.05]), cube)[2] for d in offsets]
    assert np.abs(np.diff(heights)).max() < 0.1


@pytest.mark.parametrize(
    "setting", [{"gain": 0}, {"latency_steps": ()}, {"latency_steps": (11,)}, {"friction": float("nan")}]
)
def test_domains_refuse_nonsense(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        Domain(**setting)
