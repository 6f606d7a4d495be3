"""Who follows the weights, how far each was told and what each says it uses."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from protos import weights_pb2 as pb
from protos.errors import InputError

log = logging.getLogger(__name__)
DEFAULT_MAX_WATCHERS = 1024
_NAME_CHARACTERS = 80


class Watchers:
    """The open Watch streams. Each takes a table entry and one waiting coroutine, whatever is published."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[int, pb.WeightsWatcher] = {}
        self._by_id: dict[str, pb.WeightsWatcher] = {}  # the newest stream of each

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def watching(self, request: pb.WatchRequest, peer: str) -> Iterator[pb.WeightsWatcher]:
        """Lists a watcher while its stream is open. Raises InputError when there are too many."""
        if len(self._open) >= self._limit:
            raise InputError(f"{len(self._open)} watchers already; the limit is --max-watchers {self._limit}")
        name, identity = request.name[:_NAME_CHARACTERS], request.id[:_NAME_CHARACTERS]
        watcher = pb.WeightsWatcher(name=name, id=identity, peer=peer)
        self._open[id(watcher)] = self._by_id[identity] = watcher
        log.info("%s watches", name)
        try:
            yield watcher
        finally:
            del self._open[id(watcher)]
            if self._by_id.get(identity) is watcher:
                del self._by_id[identity]
            log.info("%s left", name)

    def note(self, report: pb.WeightsReport) -> None:
        """Takes down what a watcher says; of one that does not watch (any more) it is forgotten."""
        watcher = self._by_id.get(report.id)
        if watcher is not None:
            watcher.using, watcher.reported_unix_s = report.version, time.time()
            watcher.using_unix_s = watcher.reported_unix_s - max(0.0, report.in_use_s)

    def listed(self) -> list[pb.WeightsWatcher]:
        return list(self._open.values())

    def slowest_behind(self, newest: int) -> int:
        """Versions between the newest and the oldest that a watcher uses, or was told if it does not report."""
        used = [watcher.using if watcher.reported_unix_s else watcher.told for watcher in self.listed()]
        return max((max(0, newest - version) for version in used), default=0)
