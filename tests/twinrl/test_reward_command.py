"""`twinrl reward` trains on a dataset folder and checks on another, whose episodes it did not see."""

from contextlib import closing

import pytest
from reward_samples import SCHEMA, episodes

from learner.datasets import ActionScale, make_writer
from protos.errors import InputError
from twinrl.commands import reward

SCALE = ActionScale(metres=0.03, radians=0.0)
TASK = ("--task", "pick_and_place")


def write(folder, found):
    with closing(make_writer("rlds", folder, SCHEMA, action_scale=SCALE)) as writer:
        for one in found:
            writer.add(one)
    return str(folder)


def test_a_classifier_is_trained_and_checked_on_others(tmp_path, capsys):
    recorded = write(tmp_path / "recorded", episodes(range(8)))
    folder = tmp_path / "reward"
    assert (
        reward.main(["train", recorded, "--out", str(folder), "--train.steps", "60", "--train.batch", "16", *TASK]) == 0
    )
    said = capsys.readouterr().out
    assert f"saved {folder}" in said and "gripper told to open" in said and "on 6 of 16 episodes" in said
    others = write(tmp_path / "others", [*episodes(range(2)), *episodes(range(50, 55), name="later")])
    assert reward.main(["check", others, "--reward", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "on 10 episodes" in said and "4 more are left out: it was trained with them" in said
    assert "agree with the outcome     10 of 10    72.2 to 100.0 %" in said
    assert "false successes             0 of 10     0.0 to  27.8 %" in said


def test_other_images_and_an_unknown_task_are_refused(tmp_path):
    recorded = write(tmp_path / "recorded", episodes(range(6)))
    folder = tmp_path / "reward"
    with pytest.raises(InputError, match="do not say what was done: give --task"):
        reward.main(["train", recorded, "--out", str(folder)])
    reward.main(["train", recorded, "--out", str(folder), "--train.steps", "40", "--train.batch", "16", *TASK])
    with pytest.raises(InputError, match="judges 'pick_and_place' by"):
        reward.main(["check", recorded, "--side-px", "16", "--reward", str(folder)])
