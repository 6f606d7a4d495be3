"""Draws batches ahead of the learner, in threads of their own.

    draw(old) ──► [ ready batches, at most `depth` with those being drawn ] ──► next()
        ▲                                                                         │
        └───────────────── batches whose arrays are free again ◄──────────────────┘

A batch stays as it is until the second `next` after the one that returned it; then `draw` gets it back and may fill its
arrays again. So the learner can still copy one batch to its device when it already has the following one. Batches are
handed over as they are, and `depth` + 2 exist.

    a thread waits for     fewer than `depth` on hand, and an error to be taken   unblocked by next and close
    next waits for         a batch or an error                                    unblocked by a thread and close
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from protos.errors import InputError, Unreachable

T = TypeVar("T")

HELD = 2
"""Batches that the caller may still use."""


class Prefetcher(Generic[T]):
    """Calls `draw` ahead of time. Only one thread may call `next`."""

    def __init__(self, draw: Callable[[T | None], T], *, depth: int = 2, threads: int = 1) -> None:
        """`draw(old)` returns a batch; `old`, if not None, is one that nobody uses any more. It starts at once.

        With several `threads`, `draw` is called by all of them at once, and what it returns depends on their timing.
        """
        if not 1 <= threads <= depth:
            raise InputError(f"threads={threads}, depth={depth}: at least 1 thread, and at least as many batches")
        self._draw, self._depth = draw, depth
        self._ready: deque[T] = deque()
        self._held: deque[T] = deque()
        self._free: deque[T] = deque()
        self._error: Exception | None = None
        self._closed = False
        self._drawing = 0
        self._batches = 0
        self._waited_s = 0.0
        self._change = threading.Condition()
        self._threads = [threading.Thread(target=self._run, name="prefetch", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def next(self, timeout_s: float) -> T:
        """The next batch, in the order in which they were finished.

        An error of `draw` is raised here, after the batches drawn before it; the call after that draws again. Raises
        Unreachable when there is none after `timeout_s`, and InputError once closed.
        """
        begin = time.monotonic()
        with self._change:
            came = self._change.wait_for(lambda: self._ready or self._error or self._closed, timeout_s)
            self._waited_s += time.monotonic() - begin
            if self._closed:
                raise InputError("the prefetcher is closed")
            if not came:
                raise Unreachable(f"no batch within {timeout_s:g} s")
            self._change.notify_all()
            if not self._ready:
                error, self._error = self._error, None
                assert error is not None
                raise error
            return self._hand_out()

    def stats(self) -> dict[str, float]:
        """Batches handed out, seconds that `next` waited for them, batches ready now."""
        with self._change:
            return {"batches": self._batches, "waited_s": self._waited_s, "ready": len(self._ready)}

    def close(self) -> None:
        """Ends the threads, after the draws that run; a `next` that waits is woken."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> "Prefetcher[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hand_out(self) -> T:
        batch = self._ready.popleft()
        self._held.append(batch)
        if len(self._held) > HELD:
            self._free.append(self._held.popleft())
        self._batches += 1
        return batch

    def _run(self) -> None:
        while self._wait_for_room():
            with self._change:
                old = self._free.popleft() if self._free else None
            batch, error = None, None
            try:
                batch = self._draw(old)
            except Exception as failure:  # root of the thread: raised again by next
                error = failure
            with self._change:
                self._drawing -= 1
                if batch is not None:
                    self._ready.append(batch)
                self._error = self._error or error
                self._change.notify_all()

    def _wait_for_room(self) -> bool:
        """Counts a draw as begun; False once closed."""
        with self._change:
            self._change.wait_for(lambda: self._closed or (self._error is None and self._on_hand() < self._depth))
            self._drawing += not self._closed
            return not self._closed

    def _on_hand(self) -> int:
        return len(self._ready) + self._drawing
