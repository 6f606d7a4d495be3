"""Direct mode over all shards: every picture is read once, from all shards at the same time."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait

import numpy as np

from protos.errors import Unreachable
from protos.schema import U8, Bools, Schema
from services.replay.read.frame_fetch import Fetch
from services.replay.read.frame_plan import Slot, Wanted, plan
from services.replay.read.frame_table import Rows
from services.replay.read.wire import SlotReader

AVOID_S = 2.0
"""How long a shard counts as unreadable after it did not answer."""


class DirectReader:
    """Thread-safe; one reading at a time."""

    def __init__(self, schema: Schema, fetchers: Sequence[SlotReader], decoders: Executor) -> None:
        """`fetchers`: one per shard; they belong to this reader from now on."""
        self.counts: Counter[str] = Counter()
        self._schema, self._fetchers, self._decoders = schema, list(fetchers), decoders
        self._threads = ThreadPoolExecutor(len(self._fetchers), "replay-slots")
        self._failed: dict[int, float] = {}  # shard -> when
        self._mutex = threading.Lock()

    def fill(self, wanted: Wanted) -> Bools:
        """(m,) False where a picture is no longer on its server. Raises Unreachable when a shard does not answer."""
        _, first, where = np.unique(wanted.places.number, return_index=True, return_inverse=True)
        with self._mutex:
            missing = self._missing(wanted, first.tolist())
        found = np.ones(len(where), np.bool_)
        found[missing] = False
        found = found[first][where]
        for out in wanted.out.values():
            _repeat(out, first[where])
        self.counts["direct"] += int(np.count_nonzero(found))
        self.counts["gone"] += int(np.count_nonzero(~found))
        return found

    def unreadable(self) -> frozenset[int]:
        """Shards that did not answer a moment ago."""
        now = time.monotonic()
        return frozenset(shard for shard, when in self._failed.copy().items() if now < when + AVOID_S)

    def close(self) -> None:
        """Closes the connections, after the reading that runs."""
        with self._mutex:
            self._threads.shutdown()
            for fetcher in self._fetchers:
                fetcher.close()

    def _missing(self, wanted: Wanted, picks: Sequence[int]) -> list[int]:
        """Reads the picks; those that are gone, from their own segment and from the one whose end they are."""
        missing = self._read(wanted, picks, join=True)
        own = wanted.places.segment["slot"]
        again = [pick for pick in picks if pick in missing and missing[pick] != own[pick]]
        if again:
            missing = {pick: slot for pick, slot in missing.items() if slot == own[pick]}
            missing |= self._read(wanted, again, join=False)
        return list(missing)

    def _read(self, wanted: Wanted, picks: Sequence[int], *, join: bool) -> dict[int, int]:
        """Reads each pick from its shard, all shards at once; the picks that are not in the slot where it looked."""
        by_shard: dict[int, list[Slot]] = {}
        for slot in plan(wanted.places, picks, join=join):
            by_shard.setdefault(slot.shard, []).append(slot)
        jobs = [self._threads.submit(self._read_shard, wanted, shard, slots) for shard, slots in by_shard.items()]
        wait(jobs)
        return {pick: slot for job in jobs for pick, slot in job.result().items()}

    def _read_shard(self, wanted: Wanted, shard: int, slots: Sequence[Slot]) -> dict[int, int]:
        fetch = Fetch(self._schema, wanted, self._decoders)
        try:
            fetch.read(self._fetchers[shard], slots)
        except Unreachable:
            self._failed[shard] = time.monotonic()
            raise
        self._failed.pop(shard, None)
        self.counts["corrupt"] += fetch.corrupt
        return fetch.missing


def _repeat(out: Sequence[U8], first: Rows) -> None:
    """Copies a picture that is wanted several times from the place where it was read."""
    for k, source in enumerate(first.tolist()):
        if k != source:
            out[k][...] = out[source]
