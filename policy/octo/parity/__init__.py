"""This package compares our Octo's numbers with the original's: `python -m policy.octo.parity FILE.npz`.

A file holds parameters, inputs and every intermediate of runs of the JAX code, in cases (with and without goal
images, language, cameras; window 1; Octo 1.0). All sizes are read from the file.

    FILE.npz ─► reference ─► model of the file's sizes ─┬─► transformer  masks, tokenizers, blocks, outputs
                                                        ├─► heads        score network, samples, loss, other heads
                                                        └─► gradients    of the loss, leaf by leaf
                                                                 │
                                                               table ─► text, exit code

Names inside a file: `config_json`, `params/<official path>`, `<case>/in/…`, `<case>/mid/…`, `<case>/out/…`,
`<case>/head_action/…`, `<case>/grad/…`, `<case>/aux_heads/…`, `aux_params/…`, `schedule/…`. Arrays that a file lacks
is not compared; arrays in it that nothing compares are counted under the table.
"""
