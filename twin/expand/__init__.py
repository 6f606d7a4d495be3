"""Exploration-space expansion: many twin demonstrations from a few (TwinRL, stage I).

demonstrations ─► Expander ─Plan─► Tracker ─actions─► VectorTwin ─► accepted | rejected, with the reason
                                                                          └─► Coverage over the grid

Demonstration.of(name, configuration, proprio, action)
Expander(robot, task, demonstrations, domain=, settings=, seed=).plan(configuration, attempt) -> Plan | Refused
Tracker(task, plan).action(state, slot)
Coverage(space=)
"""

from twin.expand.contacts import contacts
from twin.expand.coverage import Coverage
from twin.expand.demonstration import Demonstration
from twin.expand.expander import Expander, Plan
from twin.expand.reasons import Reason, Refused
from twin.expand.settings import ExpansionSettings
from twin.expand.tracker import Tracker

__all__ = [
    "Coverage",
    "Demonstration",
    "Expander",
    "ExpansionSettings",
    "Plan",
    "Reason",
    "Refused",
    "Tracker",
    "contacts",
]
