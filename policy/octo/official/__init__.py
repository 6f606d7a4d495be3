"""This package imports checkpoints of the original Octo (octo-models/octo).

    folder ─► checkpoint (msgpack files) ─┬─ config ─► settings
                                          ├─ names ──► tensors under our names, one to one
                                          └─ policy ─► Policy, action units of a dataset, language folder

It needs msgpack alone, no JAX.
"""

from policy.octo.official.checkpoint import OfficialCheckpoint, read_checkpoint
from policy.octo.official.policy import LANGUAGE, build_t5, datasets, imported_policy, save_language, try_policy

__all__ = [
    "LANGUAGE",
    "OfficialCheckpoint",
    "build_t5",
    "datasets",
    "imported_policy",
    "read_checkpoint",
    "save_language",
    "try_policy",
]
