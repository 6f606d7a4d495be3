"""This package is the learner: supervised fine-tuning (SFT), critic warm-up, online reinforcement learning (RL).

    replay, datasets ──episodes──► sft: labels ─► train_sft ─────────────────────────► DIR/policy
    replay ──batches──► rl: losses ─► RlAgent (plain torch, or inside RLlib) ──parts──► weights service
           ◄─allowance──┘ OnlineLoop                                       └─► DIR/checkpoint, DIR/policy, metrics.jsonl

    learner.losses     every loss as a pure function; beside it, for rl and sft alike, optimization and augment
    learner.rl         the update, RLlib, the online loop
    learner.sft        fine-tuning in memory, without services
    learner.stage      a learning process: `run_sft`, `run_rl`, their settings, checkpoints and metrics
    learner.datasets   episodes from folders, and back

From a shell: `twinrl sft`, `twinrl rl`, and `python -m learner sft|rl --settings FILE --out DIR [--resume]`. Each
package is imported where it is needed; torch takes seconds.
"""
