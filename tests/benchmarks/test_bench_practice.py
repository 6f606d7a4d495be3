"""A practice inside one process runs, learns from what the arm did, and refuses a twin that is not there."""

import pytest

from benchmarks.operator.practice import PracticeBench, practise
from policy.checkpoint import save_policy
from policy.model import Policy
from protos.errors import InputError
from twin import tasks
from twinrl.run.for_task import policy_for
from twinrl.run.settings import RealRlPlan, ScanPlan

ALONE = {"twin_share": 0.0, "seed_twin_episodes": 0, "scan": ScanPlan(actors=0)}


def test_an_untrained_policy_practises_with_help_and_is_tried_on_the_way(tmp_path):
    save_policy(tmp_path / "policy", Policy(policy_for(tasks.get("pick_and_place"))))
    plan = RealRlPlan(env_steps=150, warmup_updates=3, utd=0.1, **ALONE)
    course = practise(
        PracticeBench(policy=tmp_path / "policy", demonstrations=1, real_rl=plan, every=80, rollouts=1), "1003"
    )
    assert list(course.trials) == [0, 80, 150] and course.trials[0] == "0 / 0"
    assert course.results and all(course.helped), "it can do nothing by itself"
    assert course.robot_min > 150 / 600


def test_there_is_no_twin_beside_it(tmp_path):
    with pytest.raises(InputError, match="no twin"):
        PracticeBench(policy=tmp_path, real_rl=RealRlPlan())
