"""The learner: supervised fine-tuning, critic warm-up, online RL.

    replay, datasets ──episodes──► labels ─► sft ─────────────────────────────► DIR/policy
    replay ──batches──► update (plain torch, or the same inside RLlib) ──parts──► weights service
           ◄─allowance──┘    losses: pure functions     └─► DIR/checkpoint, DIR/policy, DIR/metrics.jsonl

Doors:

* `twinrl sft`, `twinrl rl`; `python -m learner sft|rl --settings FILE --out DIR [--resume]`
* `learner.stages`: `run_sft`, `run_rl`; `learner.settings`: `SftSettings`, `RlSettings`, `UpdateSettings`, `Selection`
* `learner.sft.train_sft(policy, episodes, settings, …)`: in memory, no services
* `learner.update.RlAgent`: the plain torch step; `learner.batches`, `learner.terms`, `learner.losses`: what it computes
* `learner.updater.Updater`: whatever runs it: `PlainUpdater`, or `learner.rllib.RllibUpdater` here or in processes of
  their own
* `learner.online.OnlineLoop`: paces updates against received transitions; `learner.draws`: which batch comes when
* `learner.checkpoint`, `learner.position`, `learner.streams`: how a stage goes on exactly; `learner.tracking`: numbers
* `learner.sources`: what stages read from the replay; `learner.datasets`: and from folders; `learner.seeding`
* `learner.labels.hindsight_labels`
"""
