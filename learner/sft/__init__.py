"""This package fine-tunes a policy on demonstrations, in memory and without services.

    episodes ─► hindsight_labels ─► Demonstrations ─► SftTrainer ─► the policy, trained in place

`train_sft` does all of it.
"""

from learner.sft.demonstrations import Demonstrations
from learner.sft.labels import LabelSettings, hindsight_labels, object_path
from learner.sft.settings import OptimizerSettings, TrainSettings, conrft_train, twinrl_train
from learner.sft.trainer import Metrics, SftTrainer, prepare, train_sft

__all__ = [
    "Demonstrations",
    "LabelSettings",
    "Metrics",
    "OptimizerSettings",
    "SftTrainer",
    "TrainSettings",
    "conrft_train",
    "hindsight_labels",
    "object_path",
    "prepare",
    "train_sft",
    "twinrl_train",
]
