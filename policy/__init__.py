"""The policy: an Octo-like vision-language-action network, its action head, its critics.

    side, wrist u8 ──► tokenizers ─┐
    language (L, 768) ─► projection ├─► block-causal transformer ─► readout embedding (n, D) ─┬─► auxiliary labels
                                    ┘        policy.octo                                      │
    proprio (n, 25) ──────────────────► normalisation ─► chosen numbers (─► encoder) ─────────┴─► features (n, F)
                                                                                                   │
                     action (n, 7) ◄── units of the wire ◄── action head, policy.heads ◄───────────┤
                          Q (E, n) ◄── critic ensemble ◄── action ────────────────────────────────┘

Doors:

* `policy.settings.PolicySettings`, `policy.settings.preset(name)`: "tiny" (64-pixel cameras, CPU), "small", "base"
* `policy.model.Policy`: `embed`, `features`, `sample`, `to_wire`, `from_wire`, `parts`, `load_parts`, `backbone_id`,
  `weights_id`, `freeze_backbone`, `train_backbone`, `head_parameters`
* `policy.heads`: consistency (reinforcement learning), diffusion (released checkpoints), regression
* `policy.critics.CriticEnsemble`
* `policy.language.encode_instruction`
* `policy.normalize`: `Normalization` of proprioception, `action_units` of imported checkpoints
* `policy.identity`: what weights are called; who acts checks it
* `policy.acting.BatchActor`: batched observation → action on the wire, for policy servers and the robot PC
* `policy.model`: another head on a policy's backbone
* `policy.checkpoint`: `save`, `load`, `save_policy`, `load_policy` (safetensors + JSON manifest, no pickle)
"""
