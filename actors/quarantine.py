"""This module keeps broken slots and starts out: each is named and not tried again, and the others go on.

loop ──fault of a slot──► Quarantine ──► may the slot try another start? ──no──► it stays out, named
                             ▲
guide.next() ──admits?───────┘  a configuration that broke a world twice is passed over

There is one `Quarantine` per loop; an actor's stats report its counts. The fleet's `FaultLog` collects the faults of
all actors in one file.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.files import JsonLines
from protos.schema import Configuration

log = logging.getLogger(__name__)

SLOT_LIMIT = 3
"""Faults in a row, without a finished episode between them, after which a slot stays out."""
TRIES = 2
"""Faults after which a configuration is not tried again."""
KEPT = 50
"""Newest faults that are kept to be read."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault: a world that broke."""

    t: float  # unix seconds
    slot: int
    seed: int
    """Seed of the slot's twins; -1 where there is none."""
    configuration: Configuration
    reason: str
    quarantined: bool
    """True when the slot stays out from now on."""

    def line(self) -> str:
        """Returns slot, place and reason as a line for people."""
        start = self.configuration
        where = f"cell {start.cell}" if start.cell >= 0 else f"region {start.region or '?'}"
        seed = f"seed {self.seed}, " if self.seed >= 0 else ""
        return f"slot {self.slot} ({seed}{where}): {self.reason}"

    def entry(self) -> dict[str, Any]:
        """Returns the fault as a JSON object."""
        start = self.configuration
        return {
            "t": self.t,
            "slot": self.slot,
            "seed": self.seed,
            "region": start.region,
            "cell": start.cell,
            "poses": {name: list(pose) for name, pose in start.poses.items()},
            "reason": self.reason,
            "quarantined": self.quarantined,
        }


def key_of(configuration: Configuration) -> str:
    """Returns a key that is equal for equal starts, to a micrometre and a microradian."""
    poses = ";".join(
        f"{name}:" + ",".join(f"{value:.6f}" for value in pose) for name, pose in sorted(configuration.poses.items())
    )
    return f"{configuration.region}/{configuration.cell}/{poses}"


class Quarantine:
    """Counts the faults of one loop's slots and of its starts."""

    def __init__(
        self,
        *,
        seed: int = -1,
        first: int = 0,
        explain: Callable[[int], str] = lambda slot: "",
        avoid: Iterable[str] = (),
    ) -> None:
        """Begins with nothing but the starts to avoid.

        `first` is the number of the loop's slot 0 within its actor, `explain` returns what the world knows to be wrong
        with a slot, `avoid` are keys of starts to pass over.
        """
        self._seed, self._first, self._explain = seed, first, explain
        self._in_a_row: Counter[int] = Counter()
        self._failed: Counter[str] = Counter(dict.fromkeys(avoid, TRIES))
        self.slots: dict[int, Fault] = {}
        """Slots that stay out, with their last faults."""
        self.faults: deque[Fault] = deque(maxlen=KEPT)
        self.count = 0

    def admits(self, configuration: Configuration) -> bool:
        """Returns True if an episode may start there."""
        return self._failed[key_of(configuration)] < TRIES

    def fault(self, slot: int, configuration: Configuration, what: str) -> bool:
        """Notes a broken world; returns True when the slot stays out from now on."""
        self._in_a_row[slot] += 1
        self._failed[key_of(configuration)] += 1
        self.count += 1
        fault = Fault(
            t=time.time(),
            slot=self._first + slot,
            seed=self._seed,
            configuration=configuration,
            reason=": ".join(filter(None, (what, self._explain(slot)))),
            quarantined=self._in_a_row[slot] >= SLOT_LIMIT,
        )
        self.faults.append(fault)
        if fault.quarantined:
            self.slots[slot] = fault
        log.warning("%s%s", fault.line(), "; the slot stays out" if fault.quarantined else "; it starts anew")
        return fault.quarantined

    def finished(self, slot: int) -> None:
        """Notes that an episode of the slot came to its end."""
        self._in_a_row[slot] = 0


class FaultLog:
    """Appends faults to one file of JSON lines; a fault that is reported twice is kept once."""

    def __init__(self, path: Path) -> None:
        self._lines = JsonLines(path)
        self._known: set[tuple[str, float, int]] = set()
        self._failed: Counter[str] = Counter()

    @property
    def avoid(self) -> list[str]:
        """Keys of the starts that broke worlds `TRIES` times, in any incarnation of any actor."""
        return [key for key, count in self._failed.items() if count >= TRIES]

    def add(self, faults: Iterable[Mapping[str, Any]]) -> None:
        """Appends faults as `TwinActor.faults` returns them."""
        for fault in faults:
            identity = (fault["actor"], fault["t"], fault["slot"])
            if identity not in self._known:
                self._known.add(identity)
                self._failed[fault["key"]] += 1
                self._write({name: value for name, value in fault.items() if name != "key"})

    def killed(self, actor: str, reason: str, standing: list[list[str]]) -> None:
        """Appends an actor that was killed, with the starts of its groups' episodes."""
        self._write({"t": time.time(), "actor": actor, "reason": reason, "standing": standing})

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()

    def _write(self, entry: dict[str, Any]) -> None:
        self._lines.write(entry)
