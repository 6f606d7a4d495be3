"""This package reads and writes recorded episodes in the formats that others use.

    RLDS, LeRobotDataset v3, the paper's pickles ──open_dataset──► Dataset ─┐
    replay ──services.replay.read_episodes──────────────────────────────────┴─► Episode ─► fine-tuning
                                                                                   └─► chosen ─► copy ─► make_writer

An `Episode` (protos) is the only form in between. `rlds`, `lerobot` and `released` hold one format each.
"""

from learner.datasets.dataset import UNKNOWN_SCALE, ActionScale, Dataset, Format, ImageFormat, Writer
from learner.datasets.export import Choice, ExpectedArrays, Tally, chosen, copy
from learner.datasets.opening import make_writer, open_dataset, open_datasets, stored_schema
from learner.datasets.outcomes import ALL, IMITATED, counted, named_outcomes, outcome_of
from learner.datasets.reading import Skipped, identity, summary, unique_name
from learner.datasets.settings import DataSettings, LeRobotMapping, ReleasedMapping, RldsMapping

__all__ = [
    "ALL",
    "IMITATED",
    "UNKNOWN_SCALE",
    "ActionScale",
    "Choice",
    "DataSettings",
    "Dataset",
    "ExpectedArrays",
    "Format",
    "ImageFormat",
    "LeRobotMapping",
    "ReleasedMapping",
    "RldsMapping",
    "Skipped",
    "Tally",
    "Writer",
    "chosen",
    "copy",
    "counted",
    "identity",
    "make_writer",
    "named_outcomes",
    "open_dataset",
    "open_datasets",
    "outcome_of",
    "stored_schema",
    "summary",
    "unique_name",
]
