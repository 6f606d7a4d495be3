"""Octo (Octo Model Team, arXiv 2405.12213) as one configurable model.

    language ──► [task_language]
    side     ──► [obs_side     ] × window ┐
    wrist    ──► [obs_wrist    ] × window ├─► + positions ─► block-causal transformer ─► readout of the last step
                 [readout      ] × window ┘

`settings` chooses size and stems, `tokenizers` turns pictures into tokens, `attention` says who sees whom,
`transformer` is the pre-norm stack, `model` joins them.
"""
