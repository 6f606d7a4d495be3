"""The reward classifier learns from a few tiny images, its guard and threshold hold, and bad data are told."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from reward_samples import OPENS_AT, SCHEMA, STEPS, episode, episodes

from learner.reward import NEITHER, SOLVED, RewardTraining, choose_threshold, judged, labels, split, train_reward
from policy.reward import Guard, RewardSettings, lasting, load_reward, save_reward, told_to_open
from protos.errors import InputError
from protos.schema import GRIPPER_ACTION, Configuration, Outcome

SETTINGS = RewardSettings(
    task="pick_and_place",
    target="target",
    schema=SCHEMA,
    steps=2,
    guard=Guard(low=(0.0,) * 3, high=(0.0,) * 3, opens=None),
)
SHORT = RewardTraining(steps=60, batch=16)


@pytest.fixture(scope="module")
def trained():
    return train_reward(episodes(range(12)), SETTINGS, SHORT)


def test_it_judges_episodes_that_it_has_not_seen(trained):
    others = episodes(range(100, 115))
    assert Counter(judged(trained.classifier, one) for one in others) == {"agrees": len(others)}
    assert {verdict for _, verdict in trained.verdicts} == {"agrees"}


def test_the_guard_keeps_what_the_images_cannot_tell(trained):
    """The object is on its target, and is still held; or the tool has gone elsewhere."""
    held, away = episode(200, success=True), episode(201, success=True)
    held.action[:, GRIPPER_ACTION] = -1.0
    away.observation.proprio[:, 0] += 0.06
    for one in (held, away):
        assert trained.classifier.seen(one.observation)[-1] > 0.5, "the images alone say that it is solved"
        assert judged(trained.classifier, one) == "missed"


def test_a_success_that_did_not_happen_is_told(trained):
    lied = replace(episode(300, success=True), outcome=Outcome.FAILURE)
    assert judged(trained.classifier, lied) == "false success"


def test_it_comes_back_from_its_folder(trained, tmp_path):
    save_reward(tmp_path, trained.classifier, known=trained.known)
    again, manifest = load_reward(tmp_path)
    one = episode(400, success=True)
    np.testing.assert_array_equal(again.lasting(one), trained.classifier.lasting(one))
    assert again.settings == trained.classifier.settings and len(manifest["known"]) == 24


def test_the_same_episodes_in_another_order_give_the_same_classifier(trained):
    few = RewardTraining(steps=3, batch=8)
    first, second = (train_reward(order, SETTINGS, few) for order in (episodes(range(6)), episodes(range(6))[::-1]))
    one = episode(1, success=True).observation
    np.testing.assert_array_equal(first.classifier.seen(one), second.classifier.seen(one))


def test_what_a_person_judged_late_is_neither():
    one = episode(0, success=True)
    late = replace(
        one,
        action=np.concatenate([one.action, np.repeat(one.action[-1:], 3, 0)]),
        observation=one.observation.rows(np.minimum(np.arange(one.steps + 4), one.steps)),
    )
    found = labels(late, steps=2)
    assert np.flatnonzero(found == SOLVED).tolist() == [late.steps - 1, late.steps]
    assert np.flatnonzero(found == NEITHER).tolist() == [OPENS_AT + 1, OPENS_AT + 2, OPENS_AT + 3]
    assert (labels(episode(0, success=False), steps=2) != SOLVED).all()


def test_the_threshold_keeps_to_the_rate_of_false_successes(trained):
    """Two of twenty held-out episodes are successes that their records call failures."""
    lied = [replace(episode(n, success=True), outcome=Outcome.FAILURE) for n in (500, 501)]
    held_out = [*lied, *episodes(range(510, 519))]
    top = sorted(float(trained.classifier.lasting(one)[-1]) for one in lied)
    assert choose_threshold(trained.classifier, held_out, 0.1) >= 0.5
    try:
        assert choose_threshold(trained.classifier, held_out, 0.0) > top[1]
    except InputError as error:
        assert "no threshold tells" in str(error)


def test_episodes_are_held_out_whole_and_of_both_outcomes():
    training, held_out = split(episodes(range(10)), SHORT)
    assert not {one.name for one in training} & {one.name for one in held_out}
    assert Counter(one.outcome for one in held_out) == {Outcome.SUCCESS: 3, Outcome.FAILURE: 3}


def test_too_few_episodes_of_an_outcome_are_told():
    with pytest.raises(InputError, match="3 failures and timeouts: at least 4"):
        split([episode(n, success=n > 2) for n in range(12)], SHORT)


def test_a_start_without_its_target_is_told(trained):
    one = replace(episode(0, success=True), configuration=Configuration(region="A"))
    with pytest.raises(InputError, match="no start of 'target' is known"):
        judged(trained.classifier, one)


def test_a_chance_has_to_last():
    np.testing.assert_array_equal(lasting(np.array([0.9, 0.2, 0.8, 0.7]), 2), [0.0, 0.2, 0.2, 0.7])
    np.testing.assert_array_equal(lasting(np.array([0.9]), 2), [0.0])


def test_fingers_stay_as_they_were_told():
    action = np.zeros((STEPS, 7), np.float32)
    action[2, GRIPPER_ACTION], action[5, GRIPPER_ACTION] = -1.0, 0.5
    assert told_to_open(action).tolist() == [True] * 3 + [False] * 3 + [True] * (STEPS - 5)


def test_a_rate_beyond_its_bound_is_refused():
    with pytest.raises(InputError, match=r"false_positives=0\.5: must be 0 to 0\.1"):
        RewardTraining(false_positives=0.5)
