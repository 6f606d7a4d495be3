"""This package reads and writes LeRobotDatasets v3.0.

    layout   files, features and tables ─┬─► reader ─► Episode
    video    MP4 files                  ─┤
    stats    statistics of episodes     ─┴─► writer ◄─ Episode

A dataset of ours is read exactly, one of others by a `LeRobotMapping`.
"""

from learner.datasets.lerobot.reader import LeRobotDataset, stored_schema
from learner.datasets.lerobot.writer import LeRobotWriter

__all__ = ["LeRobotDataset", "LeRobotWriter", "stored_schema"]
