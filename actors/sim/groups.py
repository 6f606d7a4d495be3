"""One actor's twins in groups, each with a loop and a thread of its own, over one replay writer.

    group 0   step, draw ─► ask the policy server ┄┄┄┄┄┄┄┄ waits ┄┄┄┄┄┄┄► step, draw ─► ask …
    group 1   ┄ waits ┄┄┄┄┄┄► step, draw ─► ask the policy server ┄┄┄┄ waits ┄┄┄┄┄┄► …

While the policy server computes for one group, the other steps its physics and draws: neither waits for the other, and
both let go of Python's lock in all that takes long. Each group's physics is one batch.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from actors.loop import EpisodeLoop


def shares(twins: int, groups: int) -> list[int]:
    """Twins of each group, as equal as they can be; no group is empty."""
    count = min(groups, twins)
    return [twins // count + (index < twins % count) for index in range(count)]


class LoopGroup:
    """Runs loops side by side until told to stop, or until one of them fails."""

    def __init__(self, loops: list[EpisodeLoop]) -> None:
        self.loops = loops
        self._failed = threading.Event()

    def run(self, stop: Callable[[], bool]) -> None:
        """Raises the first error of any loop once all have ended."""
        if len(self.loops) == 1:
            self.loops[0].run(stop)
            return
        with ThreadPoolExecutor(len(self.loops), "group") as pool:
            runs = [pool.submit(self._run, loop, stop) for loop in self.loops]
        for run in runs:
            run.result()

    def _run(self, loop: EpisodeLoop, stop: Callable[[], bool]) -> None:
        try:
            loop.run(lambda: stop() or self._failed.is_set())
        except BaseException:
            self._failed.set()
            raise

    def stats(self) -> dict[str, Any]:
        """Counters and seconds of all loops together, their faults, and how far each group is."""
        each = [asdict(loop.stats) for loop in self.loops]
        held = [one.pop("waits_for") for one in each]
        seconds = [one.pop("seconds") for one in each]
        totals: dict[str, Any] = {name: sum(one[name] for one in each) for name in each[0]}
        quarantines = [loop.quarantine for loop in self.loops]
        return totals | {
            "waits_for": next(filter(None, held), ""),
            "seconds": {name: sum(one[name] for one in seconds) for name in seconds[0]},
            "turns": [loop.stats.turns for loop in self.loops],
            "faults": sum(quarantine.count for quarantine in quarantines),
            "quarantined": [fault.line() for quarantine in quarantines for fault in quarantine.slots.values()],
        }
