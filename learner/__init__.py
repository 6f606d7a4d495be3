"""The learner: supervised fine-tuning, critic warm-up, online RL.

    replay ──episodes──► labels ─► sft ──────────────► DIR/policy
           ──batches───► update (plain torch, or the same inside RLlib's Learner) ──parts──► weights service
           ◄─allowance──┘    losses: pure functions          └─► DIR/checkpoint, DIR/policy, DIR/metrics.jsonl

Doors:

* `python -m learner sft|rl --settings FILE --out DIR [--resume]`
* `learner.settings`: `SftSettings`, `RlSettings`, `UpdateSettings`, `Selection`
* `learner.sft.train_sft(policy, episodes, settings, …)`: in memory, no services
* `learner.update`: `RlAgent`, `rl_update`, the plain torch step; `learner.rllib.RllibUpdater`: the same step in RLlib
* `learner.online.OnlineLoop`: paces updates against received transitions; `learner.stages`: `run_sft`, `run_rl`
* `learner.sources`: what stages read from the replay; `learner.seeding`: twin successes among the demonstrations
* `learner.labels.hindsight_labels`, `learner.losses`, `learner.checkpoint`
"""
