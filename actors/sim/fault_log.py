"""The fleet's memory of what broke: one JSON line per fault, and the starts that nobody should try again."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from actors.quarantine import TRIES


class FaultLog:
    """Appends to one file; a fault that was told twice is kept once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._known: set[tuple[str, float, int]] = set()
        self._failed: Counter[str] = Counter()

    @property
    def avoid(self) -> list[str]:
        """Keys of the starts that broke worlds as often as anybody tries them, in any life of any actor."""
        return [key for key, count in self._failed.items() if count >= TRIES]

    def add(self, faults: Iterable[Mapping[str, Any]]) -> None:
        """Faults as `TwinActor.faults` tells them."""
        for fault in faults:
            identity = (fault["actor"], fault["t"], fault["slot"])
            if identity not in self._known:
                self._known.add(identity)
                self._failed[fault["key"]] += 1
                self._write({name: value for name, value in fault.items() if name != "key"})

    def killed(self, actor: str, reason: str, standing: list[list[str]]) -> None:
        """An actor that was killed, and where its groups' episodes started."""
        self._write({"t": time.time(), "actor": actor, "reason": reason, "standing": standing})

    def close(self) -> None:
        self._file.close()

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
