"""This package makes many twin demonstrations from a few: exploration-space expansion (TwinRL, stage I).

    Episode ─► Demonstration ─► Expander ─ Plan ─► Tracker ─ actions ─► VectorTwin ─► accepted | rejected, by Reason
    configuration ─────────────────┘                                                      └─► Coverage over the grid

Nothing but the tracker's actions reaches a twin; whether a plan does the task is for the twin to say.
"""

from twin.expand.checks import Reason
from twin.expand.coverage import Coverage
from twin.expand.demonstration import Demonstration, body_poses, contacts
from twin.expand.expander import Expander, ExpansionSettings, Plan
from twin.expand.path import ToolPath
from twin.expand.tracker import Tracker

__all__ = [
    "Coverage",
    "Demonstration",
    "Expander",
    "ExpansionSettings",
    "Plan",
    "Reason",
    "ToolPath",
    "Tracker",
    "body_poses",
    "contacts",
]
