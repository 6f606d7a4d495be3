"""This module sends what actors left behind that were moved to another machine or are gone for good.

    folder of spools ─┬─ twin-0   this actor's own
                      ├─ twin-1   locked: its actor lives
                      └─ twin-2   nobody's, untouched for half a minute ──► Spool ──► Sender ──► shard of twin-2

Numbers are per life of an actor, so an actor that goes on elsewhere is not disturbed. An emptied spool's files are
removed, hence only actors whose every life has a name of its own may be neighbours.
"""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from protos.errors import InputError, SchemaMismatch, Unreachable
from protos.schema import Schema
from services.replay.settings import ReplaySettings, shard_of
from services.replay.write.sender import Sender
from services.replay.write.spool import Spool

log = logging.getLogger(__name__)

LOOK_S = 10.0
"""Interval of looking for spools that were left."""
LEFT_S = 30.0
"""A spool that was touched more recently may be of an actor that is just starting again."""
HOLD_S = 5.0
"""A spool is given back after so long, though there is more in it: its actor may have come and wait for it."""


@dataclass(frozen=True, kw_only=True)
class _Left:
    """A spool that was left, and what sends it."""

    spool: Spool
    sender: Sender
    until_s: float
    """Monotonic time at which it is given back."""

    def close(self) -> None:
        """Gives the spool back without the file that this life added."""
        self.sender.close()
        self.spool.close()
        for path in self.spool.folder.glob(f"{self.spool.incarnation}.*.spool"):
            path.unlink()


class Neighbours:
    """Neighbours are the spools beside an actor's own whose names match a pattern. Belongs to the sending thread."""

    def __init__(self, settings: ReplaySettings, schema: Schema, own: Path, pattern: str) -> None:
        self._settings, self._schema, self._own, self._pattern = settings, schema, own, pattern
        self._unfit: set[Path] = set()
        self._left: _Left | None = None
        self._look_at_s = 0.0

    def unsent(self) -> int:
        """Returns the number of segments that were found and not yet sent."""
        left = self._left
        return 0 if left is None else left.spool.end - left.sender.acknowledged

    def step(self) -> bool:
        """Sends a batch, or looks for a spool that was left; returns True while one is being sent."""
        if self._left is None:
            self._look()
        if self._left is None:
            return False
        try:
            self._left.sender.step()
        except (Unreachable, InputError) as error:
            log.warning("segments of %s stay in their spool: %s", self._left.spool.folder.name, error)
            self.close()
            return False
        if self._left.spool.first < self._left.spool.end:
            if time.monotonic() < self._left.until_s:
                return True
            self.close()
            return False
        log.info("all segments that %s left here are in the replay", self._left.spool.folder.name)
        self.close()
        return False

    def close(self) -> None:
        """Gives back what is being sent; the rest of it stays."""
        left, self._left = self._left, None
        if left is not None:
            left.close()

    def _look(self) -> None:
        if time.monotonic() < self._look_at_s:
            return
        self._look_at_s = time.monotonic() + LOOK_S
        for folder in sorted(self._own.parent.glob(self._pattern)):
            if folder != self._own and folder not in self._unfit and _is_left(folder) and self._opened(folder):
                return

    def _opened(self, folder: Path) -> bool:
        incarnation, limit = f"after-{uuid4().hex[:8]}", self._settings.spool_bytes
        try:
            spool = Spool(folder, self._schema, actor=folder.name, incarnation=incarnation, limit_bytes=limit)
        except SchemaMismatch as error:
            log.warning("%s", error)
            self._unfit.add(folder)
            return False
        except (InputError, OSError) as error:  # in use: its actor lives and sends by itself
            log.debug("%s", error)
            return False
        log.info("sending %d segments that %s left here", spool.end - spool.first, folder.name)
        shard = shard_of(folder.name, self._settings.shards)
        sender = Sender(self._settings, self._schema, spool, shard=shard)
        self._left = _Left(spool=spool, sender=sender, until_s=time.monotonic() + HOLD_S)
        return True


def _is_left(folder: Path) -> bool:
    """Tells whether a folder holds segments that nobody has touched for a while."""
    with suppress(OSError):
        files = [path.stat() for path in folder.glob("*.[0-9]*.spool")]
        newest = max((each.st_mtime for each in files), default=0.0)
        return any(each.st_size for each in files) and time.time() - newest > LEFT_S
    return False
