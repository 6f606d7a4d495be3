"""Fine-tuning on the sample of Bridge: episodes of another lab, without poses, wrist camera or end."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import SMALL

from learner.datasets import open_dataset
from learner.sft import OptimizerSettings, TrainSettings, train_sft
from policy.model import Policy
from protos.schema import Schema

DATA = Path(os.environ.get("TWINRL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
SETTINGS = TrainSettings(steps=60, batch_size=32, optimizer=OptimizerSettings(lr=3e-3))


def test_fine_tuning_on_bridge_lowers_the_loss():
    folder = DATA / "bridge" / "bridge_dataset"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set TWINRL_SHARED_DATA to the folder of shared test data")
    torch.manual_seed(0)
    policy = Policy(SMALL)
    losses = []
    episodes = list(open_dataset(folder, Schema(side_px=SMALL.octo.side_px, wrist_px=SMALL.octo.wrist_px)))
    train_sft(policy, episodes, SETTINGS, lambda step, metrics: losses.append(metrics["bc"]))
    assert len(losses) == SETTINGS.steps
    assert np.mean(losses[-15:]) < 0.6 * np.mean(losses[:15])
