"""This package runs a learning stage as a process: its data, checkpoints, metrics and published weights.

    run_sft   replay, dataset folders ─► episodes ─► SftTrainer ─► DIR/policy
    run_rl    DIR of a policy ─► reader (embeds what has no readouts) ─► OnlineLoop ─► weights, DIR/policy

Both write `DIR/metrics.jsonl` and `DIR/checkpoint`, the latter every so often and when told to stop, and go on from it
with `resume` as if they had never stopped.
"""

from learner.stage import checkpoint
from learner.stage.rl import run_rl
from learner.stage.settings import (
    RECIPES,
    EngineSettings,
    Recipe,
    ResumeSettings,
    RlSettings,
    Selection,
    SftSettings,
    with_rl_recipe,
    with_train_recipe,
)
from learner.stage.sft import run_sft, starting_settings
from learner.stage.tracking import TrackingSettings

__all__ = [
    "RECIPES",
    "EngineSettings",
    "Recipe",
    "ResumeSettings",
    "RlSettings",
    "Selection",
    "SftSettings",
    "TrackingSettings",
    "checkpoint",
    "run_rl",
    "run_sft",
    "starting_settings",
    "with_rl_recipe",
    "with_train_recipe",
]
