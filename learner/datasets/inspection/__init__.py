"""This package looks at a dataset before a policy learns from it, and says what it found and how it knows.

    lerobot_tables, rlds_records ─► raw ─► columns, guesses ─► survey ─► report, remarks

It reads only, and holds at most a bounded number of numbers of the first episodes.
"""

from learner.datasets.inspection.report import Report
from learner.datasets.inspection.survey import inspect_dataset, inspect_episodes

__all__ = ["Report", "inspect_dataset", "inspect_episodes"]
