"""This module reads files again when they change, so that renewed certificates are used without a restart.

Reread          a value made of files: a server's certificate, the list of revoked ones
RenewedChannel  a client's channel, made anew with new certificates; calls under way end on the one they began on
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc

from protos.errors import InputError

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_EVERY_S = 1.0


class Reread(Generic[T]):
    """Holds what was read from files; what has changed and cannot be read is logged, and what was there stays."""

    def __init__(self, files: Sequence[Path], read: Callable[[], T]) -> None:
        """Reads at once. Raises InputError for files that cannot be read."""
        self._files, self._read = files, read
        self._lock = threading.Lock()
        self._states, self._value = self._look(), read()
        self._next_s = time.monotonic() + LOOK_EVERY_S

    def get(self) -> T:
        """Returns the newest value; looks at the files once a second at most."""
        with self._lock:
            if time.monotonic() >= self._next_s:
                self._next_s = time.monotonic() + LOOK_EVERY_S
                self._follow()
            return self._value

    def _follow(self) -> None:
        states = self._look()
        if states == self._states:
            return
        self._states = states
        try:
            self._value = self._read()
        except InputError as error:  # half copied: certificate and key come one after the other
            log.warning("the files from before stay in use: %s", error)
            return
        log.info("read again: %s", ", ".join(str(file) for file in self._files))

    def _look(self) -> list[tuple[int, int, int]]:
        return [_state(file) for file in self._files]


class RenewedChannel(grpc.Channel):
    """A channel whose calls go over the newest channel that `make` made of the files."""

    def __init__(self, files: Sequence[Path], make: Callable[[], grpc.Channel]) -> None:
        """Raises InputError for files that cannot be read."""
        self._made: list[grpc.Channel] = []
        self._newest = Reread(files, lambda: self._keep(make()))

    def _keep(self, channel: grpc.Channel) -> grpc.Channel:
        self._made.append(channel)
        return channel

    def unary_unary(self, *method: Any, **options: Any) -> Any:
        return _Call(self._newest, "unary_unary", method, options)

    def unary_stream(self, *method: Any, **options: Any) -> Any:
        return _Call(self._newest, "unary_stream", method, options)

    def stream_unary(self, *method: Any, **options: Any) -> Any:
        return _Call(self._newest, "stream_unary", method, options)

    def stream_stream(self, *method: Any, **options: Any) -> Any:
        return _Call(self._newest, "stream_stream", method, options)

    def subscribe(self, callback: Callable[..., Any], try_to_connect: bool = False) -> None:
        self._newest.get().subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[..., Any]) -> None:
        self._newest.get().unsubscribe(callback)

    def close(self) -> None:
        for channel in self._made:
            channel.close()

    def __enter__(self) -> "RenewedChannel":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Call:
    """A method of a channel that may be another one at the next call."""

    def __init__(
        self, channel: Reread[grpc.Channel], kind: str, method: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._channel, self._kind, self._method, self._options = channel, kind, method, options

    def _now(self) -> Any:
        return getattr(self._channel.get(), self._kind)(*self._method, **self._options)

    def __call__(self, *request: Any, **options: Any) -> Any:
        return self._now()(*request, **options)

    def with_call(self, *request: Any, **options: Any) -> Any:
        return self._now().with_call(*request, **options)

    def future(self, *request: Any, **options: Any) -> Any:
        return self._now().future(*request, **options)


def _state(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_ino, found.st_size
