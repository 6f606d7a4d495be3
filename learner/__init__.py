"""The learner: supervised fine-tuning, critic warm-up, online RL.

    replay, datasets ──episodes──► labels ─► sft ─────────────────────────────► DIR/policy
    replay ──batches──► update (plain torch, or the same inside RLlib) ──parts──► weights service
           ◄─allowance──┘    losses: pure functions     └─► DIR/checkpoint, DIR/policy, DIR/metrics.jsonl

Doors:

* `twinrl sft`, `twinrl rl`; `python -m learner sft|rl --settings FILE --out DIR [--resume]`
* `learner.stages`: `run_sft`, `run_rl`; `learner.settings`: `SftSettings`, `RlSettings`, `UpdateSettings`, `Selection`
* `learner.sft.trainer.train_sft(policy, episodes, settings, …)`: in memory, no services
* `learner.rl`: losses, the plain torch update, what runs it (in this process, in RLlib), the online loop
* `learner.stage`: what a stage reads, how it goes on from its checkpoint, where its metrics go
* `learner.datasets`: episodes from folders, and back
* `learner.sft.labels.hindsight_labels`
"""
