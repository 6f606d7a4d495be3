"""This module puts the arm's driver before other work of its computer, as far as the system allows."""

import logging
import os

log = logging.getLogger(__name__)
REALTIME_PRIORITY, NICENESS = 10, -10


def ask_for_priority() -> None:
    """Asks for real-time priority, else for less niceness. All threads inherit it, ur_rtde's too."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REALTIME_PRIORITY))
    except OSError as refused:
        log.debug("no real-time priority: %s", refused)
        try:
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        except OSError as error:
            log.debug("no higher priority: %s", error)
