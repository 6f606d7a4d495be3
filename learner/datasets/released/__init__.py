"""This package reads the pickles that the authors of TwinRL released, without executing them.

file ─► pickles: plain values and arrays ─► episodes: two kinds of file ─► ReleasedDataset ─► Episode
"""

from learner.datasets.released.reader import ReleasedDataset, released_files

__all__ = ["ReleasedDataset", "released_files"]
