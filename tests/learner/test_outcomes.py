"""These tests say how a recorded episode ended: one rule, whatever the format."""

import json
import pickle

import numpy as np
import pytest
from lerobot_others import describe, make
from rlds_samples import FEATURES, episode, tensor, write_dataset
from samples import SCHEMA as SAMPLES
from samples import make_segment
from test_released import make_transitions

from learner.datasets import open_dataset, outcome_of
from protos.codec import decode_segment, encode_segment
from protos.images import CODECS
from protos.schema import Outcome, Schema

SCHEMA = Schema(side_px=32, wrist_px=16)
FAILURE, SUCCESS, TIMEOUT, UNKNOWN = Outcome.FAILURE, Outcome.SUCCESS, Outcome.TIMEOUT, Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("success", "reward", "end", "outcome"),
    [
        (None, None, UNKNOWN, UNKNOWN),
        (None, None, TIMEOUT, UNKNOWN),
        ([0, 0, 1], None, UNKNOWN, SUCCESS),
        ([0, 1, 0], [0, 0, 0], TIMEOUT, SUCCESS),
        ([0, 0, 0], [0, 0, 1], UNKNOWN, FAILURE),
        ([0, 0, 0], None, TIMEOUT, TIMEOUT),
        (None, [0, 0, 1], UNKNOWN, SUCCESS),
        (None, [0, 1, 0], FAILURE, SUCCESS),
        (None, [-0.05, -0.05, 10], FAILURE, SUCCESS),
        (None, [0, 0, 0], FAILURE, FAILURE),
        (None, [0, 0, 0], TIMEOUT, TIMEOUT),
        (None, [0, 0, 0], UNKNOWN, UNKNOWN),
        (None, [-1, -1, -1], TIMEOUT, TIMEOUT),
        (None, [0.2, 0.4, 0.9], FAILURE, UNKNOWN),
    ],
)
def test_success_then_reward_then_unknown(success, reward, end, outcome):
    flags = None if success is None else np.array(success, bool)
    numbers = None if reward is None else np.array(reward, np.float32)
    assert outcome_of(success=flags, reward=numbers, end=end) is outcome


def test_shaped_rewards_decide_by_the_value_that_a_person_names():
    reward = np.array([0.2, 0.4, 0.9], np.float32)
    assert outcome_of(reward=reward, success_reward=0.95) is FAILURE
    assert outcome_of(reward=reward, success_reward=0.9) is SUCCESS
    assert outcome_of(reward=reward, end=TIMEOUT, success_reward=0.95) is TIMEOUT
    assert outcome_of(reward=reward, unsaid=SUCCESS) is SUCCESS
    assert outcome_of(reward=np.zeros(3), end=FAILURE, unsaid=SUCCESS) is FAILURE


REWARDS = ([0, 0, 0, 0, 1], [0, 0, 0, 0, 0])
"""Of two episodes of five steps."""


def lerobot(folder, columns):
    columns = {name: np.concatenate(values) for name, values in columns.items()}
    return describe(make(folder / "d", [5, 5], columns=columns))


def rlds(folder, steps, more):
    features = FEATURES | {name: tensor("bool") for name in more}
    shards = [
        [
            episode(
                np.random.default_rng(i),
                **{f"steps/{k}": [float(x) for x in v[i]] for k, v in steps.items()},
                **{f"steps/{k}": [int(x) for x in v[i]] for k, v in more.items()},
            )
            for i in range(2)
        ]
    ]
    return write_dataset(folder / "cups", shards, features)


def released(folder, rewards, done):
    episodes = [make_transitions([[0.0] * 7] * 5) for _ in rewards]
    for rows, reward in zip(episodes, rewards, strict=True):
        for row, value in zip(rows, reward, strict=True):
            row["rewards"] = float(value)
            del row["infos"]
        rows[-1]["dones"] = done
    path = folder / "pick_banana.pkl"
    path.write_bytes(pickle.dumps([row for rows in episodes for row in rows]))
    return path


def outcomes(path):
    return [episode.outcome for episode in open_dataset(path, SCHEMA)]


def test_every_reader_says_the_same_of_the_same_rewards(tmp_path):
    ends = [[0, 0, 0, 0, 1]] * 2
    flags = {"next.reward": np.array(REWARDS, np.float32), "next.done": np.array(ends, bool)}
    assert outcomes(lerobot(tmp_path, flags)) == [SUCCESS, FAILURE]
    assert outcomes(rlds(tmp_path, {"reward": REWARDS}, {"is_terminal": ends})) == [SUCCESS, FAILURE]
    assert outcomes(released(tmp_path, REWARDS, True)) == [SUCCESS, FAILURE]


def test_every_reader_believes_flags_of_success_more_than_rewards(tmp_path):
    flags = [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    columns = {"next.reward": np.array(REWARDS, np.float32), "next.success": np.array(flags, bool)}
    assert outcomes(lerobot(tmp_path, columns)) == [FAILURE, SUCCESS]
    assert outcomes(rlds(tmp_path, {"reward": REWARDS}, {"is_success": flags})) == [TIMEOUT, SUCCESS]
    episodes = [make_transitions([[0.0] * 7] * 5, success=False), make_transitions([[0.0] * 7] * 5, success=True)]
    episodes[0][-1]["rewards"] = 10.0
    path = tmp_path / "pick_banana.pkl"
    path.write_bytes(pickle.dumps([row for rows in episodes for row in rows]))
    assert outcomes(path) == [FAILURE, SUCCESS]


def test_rewards_without_flags_of_an_end(tmp_path):
    """A reward of 0 says failure where other episodes have one, and nothing where none has."""
    rewards = np.array(REWARDS, np.float32)
    assert outcomes(lerobot(tmp_path / "a", {"next.reward": rewards})) == [SUCCESS, FAILURE]
    assert outcomes(lerobot(tmp_path / "b", {"next.reward": 0 * rewards})) == [UNKNOWN, UNKNOWN]
    (tmp_path / "c").mkdir()
    assert outcomes(lerobot(tmp_path / "c", {})) == [UNKNOWN, UNKNOWN]


def test_rewards_that_a_person_does_not_believe(tmp_path):
    columns = {"next.reward": np.array(REWARDS, np.float32)}
    path = lerobot(tmp_path, columns)
    describe(tmp_path / "d", reward="", outcome="success")
    assert outcomes(path) == [SUCCESS, SUCCESS]
    folder = rlds(tmp_path, {"reward": REWARDS}, {"is_terminal": [[0, 0, 0, 0, 1]] * 2})
    described = tmp_path / "cups.json"
    described.write_text(json.dumps({"path": folder.name, "rlds": {"reward": "", "success": []}}))
    assert outcomes(described) == [UNKNOWN, UNKNOWN]


def test_time_that_was_up(tmp_path):
    ends = np.array([[0, 0, 0, 0, 1]] * 2, bool)
    columns = {"next.reward": np.array(REWARDS, np.float32), "next.done": ends, "next.truncated": ends}
    assert outcomes(lerobot(tmp_path, columns)) == [SUCCESS, TIMEOUT]


def test_an_unknown_end_travels():
    segment = make_segment(np.random.default_rng(0), "e", outcome=UNKNOWN)
    data = encode_segment(segment, SAMPLES, actor="a", incarnation="1", seq=1, codec=CODECS[0])
    assert decode_segment(data, SAMPLES)[1].outcome is UNKNOWN
