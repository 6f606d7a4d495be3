"""This module keeps policies of a stage while it runs: the newest published weights, every so many steps.

learner ── weights service ──► subscriber ─┐
└─ metrics.jsonl: step ────────────┴─► folder/<step>/policy
"""

import threading
from collections.abc import Callable
from pathlib import Path

from policy.acting import BatchActor
from policy.checkpoint import save_policy
from protos.process import Closing
from services.weights import WeightSubscriber

POLL_S = 0.2


class Snapshots(Closing):
    """Saves policies in the background until closed."""

    def __init__(self, address: str, folder: Path, *, instruction: str, every: int, steps: Callable[[], int]) -> None:
        """Follows the weights at `address`; `steps` returns how many the stage has made."""
        self.folder, self._instruction = folder, instruction
        self._every, self._steps = every, steps
        self._subscriber = WeightSubscriber(address, name="snapshots")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="snapshots", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops; what was saved stays."""
        self._closing.set()
        self._thread.join()
        self._subscriber.close()

    def _follow(self) -> None:
        due = self._every
        while not self._closing.wait(POLL_S):
            steps, weights = self._steps(), self._subscriber.latest()
            if steps >= due and weights is not None:
                actor = BatchActor.from_weights(weights, self._instruction)
                save_policy(self.folder / str(steps) / "policy", actor.policy, version=weights.version)
                due = (steps // self._every + 1) * self._every


def saved(folder: Path) -> list[int]:
    """Returns the steps of the policies that were saved, in their order."""
    return sorted(int(each.name) for each in folder.iterdir()) if folder.is_dir() else []
