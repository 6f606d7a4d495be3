"""This package checks whether a machine is fit for its role, and says what to do where it is not.

    examine(role) ─┬─ probes     one child process each, with a deadline: a broken library breaks its child only
                   └─ machine    memory, disk, clock, ports, in milliseconds; the replays and the arm that were named
                        └─► Result per check ─► `twinrl doctor`

A check changes nothing on the machine.
"""

from twinrl.doctor.checks import ROLES, Asked, Result, examine
from twinrl.doctor.finding import Finding

__all__ = ["ROLES", "Asked", "Finding", "Result", "examine"]
