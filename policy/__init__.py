"""This package holds the policy: an Octo-like vision-language-action network, its action head, its critics.

    side, wrist u8 ──► tokenizers ─┐
    language (L, 768) ─► projection ├─► block-causal transformer ─► readout embedding (n, D) ─┬─► auxiliary labels
                                    ┘        policy.octo                                      │
    proprio (n, 25) ──────────────────► normalization ─► chosen numbers (─► encoder) ─────────┴─► features (n, F)
                                                                                                   │
                     action (n, 7) ◄── units of the wire ◄── action head, policy.heads ◄───────────┤
                          Q (E, n) ◄── critic ensemble ◄── action ────────────────────────────────┘

Doors:

* `policy.settings`: `PolicySettings`, `preset(name)`: "tiny" (64-pixel cameras, CPU), "small", "base"
* `policy.model`: `Policy` with `embed`, `features`, `sample`, `to_wire`, `from_wire`, `parts`, `load_parts`, `sha256`,
  `freeze_backbone`, `train_backbone`, `head_parameters`; another head on a policy's backbone
* `policy.heads`: consistency (reinforcement learning), diffusion (released checkpoints), regression
* `policy.critics`: `CriticEnsemble` on readouts, `ImageCritic`
* `policy.language`: `encode_instruction`
* `policy.normalize`: `Normalization` of proprioception, `action_units` of imported checkpoints
* `policy.acting`: `BatchActor`, batched observation → action on the wire, for policy servers and the robot PC
* `policy.checkpoint`: `save`, `load`, `save_policy`, `load_policy` (safetensors + JSON manifest, no pickle)
* `policy.octo`: the backbone; `policy.octo.official` imports released checkpoints

Nothing is imported here: settings are read where torch is not installed.
"""
