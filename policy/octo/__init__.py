"""This package holds Octo (Octo Model Team, arXiv 2405.12213) as one configurable model.

    language ──► [task_language]
    side     ──► [obs_side     ] × window ┐
    wrist    ──► [obs_wrist    ] × window ├─► + positions ─► block-causal transformer ─► readout of the last step
                 [readout      ] × window ┘

Doors: `settings` (size and stems, without torch), `model` (Octo, its inputs and outputs), `transformer` (attention
rule, blocks), `tokenizers` (images to tokens), `official` (checkpoints of the original), `parity` (our numbers beside
the original's). Nothing is imported here, so that settings can be read without torch.
"""
