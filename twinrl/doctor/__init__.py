"""Preflight: is this machine fit for its part, and if not, what to do.

examine(role) ─┬─ probes     one child process each, with a deadline: what a broken library does, it does to its child
               ├─ machine    memory, disk, clock, ports: here, in milliseconds
               └─ neighbours the replays and the arm that were named
                    └─► Result per check ─► `twinrl doctor`
"""

from twinrl.doctor.checks import ROLES, Asked, Result, examine
from twinrl.doctor.finding import Finding

__all__ = ["ROLES", "Asked", "Finding", "Result", "examine"]
