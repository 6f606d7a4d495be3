"""Octo (Octo Model Team, arXiv 2405.12213) as one configurable model.

    language ──► [task_language]
    side     ──► [obs_side     ] × window ┐
    wrist    ──► [obs_wrist    ] × window ├─► + positions ─► block-causal transformer ─► readout of the last step
                 [readout      ] × window ┘

`settings` chooses size and stems, `inputs` says what goes in and what comes out, `tokenizers` turns pictures into
tokens, `attention` says who sees whom, `transformer` is the pre-norm stack, `model` joins them.

Checkpoints of the original: `official` reads a folder, `official_msgpack` its files, `official_config` its settings,
`official_names` maps its parameters to ours one to one, `t5` builds its language encoder, `official_policy` makes a
policy of it. `parity` compares our numbers with the original's.
"""
