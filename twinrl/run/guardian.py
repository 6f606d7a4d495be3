"""Ends the processes of a run whose parent was killed before it could do so itself.

    run ── pipe: "+4711", "-4711", … ──► guardian ── on end of file: SIGTERM, 4 s, SIGKILL ──► process groups

The kernel closes the pipe however the run ends, `kill -9` included. The guardian is a session of its own, so that
Ctrl-C does not reach it. Only the standard library: it starts before anything else and must outlive everything.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_S = 4.0
"""Time between SIGTERM and SIGKILL."""


def signal_group(pgid: int, number: int) -> bool:
    """Sends a signal to a process group; False when no process of it is left."""
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def end_groups(pgids: Iterable[int], *, grace_s: float = GRACE_S) -> None:
    """SIGTERM to every group, SIGKILL to those that are left after `grace_s`."""
    left = [pgid for pgid in pgids if signal_group(pgid, signal.SIGTERM)]
    deadline = time.monotonic() + grace_s
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [pgid for pgid in left if signal_group(pgid, 0)]
    for pgid in left:
        signal_group(pgid, signal.SIGKILL)


def main() -> None:
    """Follows the pipe on standard input until it closes."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    groups: list[int] = []
    for line in sys.stdin:
        sign, pgid = line[0], int(line[1:])
        if sign == "+":
            groups.append(pgid)
        else:
            with contextlib.suppress(ValueError):
                groups.remove(pgid)
    end_groups(reversed(groups))


if __name__ == "__main__":
    main()
