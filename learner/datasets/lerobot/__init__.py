"""This package reads and writes LeRobotDatasets v3.0.

reader ◄─┬─ layout    paths and features of info.json        ─┬─► writer
├─ tables    parquet files                           │
├─ video     MP4 files                               │
└─           statistics of episodes: stats          ─┘
"""

from learner.datasets.lerobot.reader import LeRobotDataset, stored_schema
from learner.datasets.lerobot.writer import LeRobotWriter

__all__ = ["LeRobotDataset", "LeRobotWriter", "stored_schema"]
