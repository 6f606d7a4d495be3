"""This package reads and writes RLDS as tensorflow_datasets does, without tensorflow.

    shard ─► records ─► Example ─┬─► reader ─► Episode      TwinRL's by `own`, others' by a RldsMapping
    features.json ─► description ┘
    Episode ─► own ─► Example ─► records ─► writer ─► shard

Damage raises CorruptData with file and offset.
"""

from learner.datasets.rlds.own import stored_schema
from learner.datasets.rlds.reader import RldsDataset
from learner.datasets.rlds.writer import RldsWriter

__all__ = ["RldsDataset", "RldsWriter", "stored_schema"]
