"""This package reads the pickles that the authors of TwinRL released, without executing them.

    file ─► pickles: plain values and arrays ─► reader: ReleasedDataset ─► Episode

Instructions and units that the files lack come from their names or a `ReleasedMapping`.
"""

from learner.datasets.released.reader import ReleasedDataset, released_files

__all__ = ["ReleasedDataset", "released_files"]
