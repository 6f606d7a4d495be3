"""These tests take datasets of other people the whole way: inspect, fine-tune, export, and compare with the source."""

import json

import numpy as np
import pytest
from foreign_samples import Motion, write_lerobot, write_rlds
from scipy.spatial.transform import Rotation

from learner.datasets import open_dataset
from policy.checkpoint import load_manifest
from protos.schema import CONTROL_HZ, Outcome, Schema
from twinrl.commands import export, inspect, sft

MOTIONS = [Motion.random(seed, steps) for seed, steps in ((0, 40), (1, 26), (2, 30))]
OUTCOMES = [Outcome.SUCCESS, Outcome.FAILURE, Outcome.SUCCESS]
SCHEMA = Schema(side_px=64, wrist_px=64)


def lerobot(folder):
    """Writes 20 Hz, quaternions, millimetres, poses to go to, and rewards at the end of two of three episodes."""
    poses = [motion.poses("quaternion_xyzw", metres=0.001) for motion in MOTIONS]
    ends = np.cumsum([len(motion.moved) for motion in MOTIONS]) - 1
    reward = np.zeros(ends[-1] + 1, np.float32)
    reward[ends[[0, 2]]] = 1.0
    columns = {"next.reward": ("float32", reward)}
    write_lerobot(folder, [each[:-1] for each in poses], [each[1:] for each in poses], fps=20, columns=columns)
    return 20.0


def rlds(folder):
    """Writes rotation vectors and motions in [-1, 1], at a rate that the format has no place for."""
    rewards = [[0.0] * (len(motion.moved) - 1) + [float(i != 1)] for i, motion in enumerate(MOTIONS)]
    states = [motion.poses("rotation_vector")[:-1] for motion in MOTIONS]
    write_rlds(folder, states, [motion.deltas(metres=0.02) for motion in MOTIONS], rewards=rewards)
    return 5.0


def settings_of(folder, hz, capsys):
    """Lets an inspection write the settings; a person adds the rate where it says that the data do not have one."""
    path = folder.with_suffix(".json")
    assert inspect.main([str(folder), "--settings", str(path)]) == 0
    text = capsys.readouterr().out
    found = json.loads(path.read_text())
    if "do not say their rate" in text:
        found["rlds"]["hz"] = hz
        path.write_text(json.dumps(found))
    assert "success 2" in text
    return path


@pytest.mark.parametrize(("make", "kind"), [(lerobot, "rlds"), (rlds, "lerobot")])
def test_foreign_data_are_inspected_learnt_from_and_exported(make, kind, tmp_path, capsys):
    hz = make(tmp_path / "source")
    path = settings_of(tmp_path / "source", hz, capsys)
    tune = f"--policy tiny --device cpu --steps 2 --train.batch-size 4 --train.auxiliary-weight 0 --out {tmp_path}/sft"
    assert sft.main(["--data", str(path), "--outcomes", "all", *tune.split()]) == 0
    learnt = load_manifest(tmp_path / "sft/policy")["action_scale"]["metres"]
    assert learnt == pytest.approx(0.009 * hz / CONTROL_HZ, rel=0.02), "as much farther as a step of control is longer"
    assert export.main([str(path), "--out", str(tmp_path / "out"), "--format", kind]) == 0

    exported = open_dataset(tmp_path / "out", SCHEMA)
    assert exported.hz == hz
    for episode, motion, outcome in zip(exported, MOTIONS, OUTCOMES, strict=True):
        assert (episode.outcome is Outcome.SUCCESS) == (outcome is Outcome.SUCCESS)
        proprio = episode.observation.proprio[:-1]
        np.testing.assert_allclose(proprio[:, :3], motion.position[:-1], atol=1e-5)
        turned = Rotation.from_rotvec(proprio[:, 3:6]) * motion.rotation[:-1].inv()
        assert turned.magnitude().max() < 1e-4
        np.testing.assert_allclose(proprio[1:, 6:9], hz * np.diff(motion.position[:-1], axis=0), atol=1e-3)
        moved = exported.action_scale.to_motion(episode.action)
        np.testing.assert_allclose(moved[:, :3], motion.moved, rtol=0.01, atol=2e-5)
        np.testing.assert_allclose(moved[:, 3:], motion.turned, atol=1e-3)
        np.testing.assert_array_equal(episode.action[:, 6] > 0, motion.opening[1:] > 0.5)
    assert inspect.main([str(tmp_path / "out")]) == 0
    assert "written by TwinRL" in capsys.readouterr().out
