"""The stages as processes run them: replay or datasets in, weights out, metrics and checkpoints on disk.

    run_sft   replay, dataset folders ─► episodes ─► SftTrainer ─► DIR/policy
    run_rl    DIR of a policy ─► reader (embeds what has no readouts) ─► OnlineLoop ─► weights, DIR/policy

Both write `DIR/metrics.jsonl` and `DIR/checkpoint`, the latter every so often and when told to stop, and go on from it
with `resume` as if they had never stopped.
"""

from learner.stage.rl import run_rl
from learner.stage.sft import run_sft

__all__ = ["run_rl", "run_sft"]
