"""This package reads and writes RLDS as tensorflow_datasets does, without tensorflow.

shard ─► records ─► Example ─┬─► own       TwinRL's episodes, exactly   ─┬─► Episode
features.json ─► description ┴─► foreign   others', by a RldsMapping    ─┘
"""

from learner.datasets.rlds.own import stored_schema
from learner.datasets.rlds.reader import RldsDataset
from learner.datasets.rlds.writer import RldsWriter

__all__ = ["RldsDataset", "RldsWriter", "stored_schema"]
