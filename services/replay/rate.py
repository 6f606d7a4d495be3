"""How much happens per second, over the last few seconds."""

import threading
import time
from collections import deque

WINDOW_S = 10.0


class Rate:
    """Mean per second over the last ten seconds, or since the start if that is shorter. Thread-safe."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._events: deque[tuple[float, float]] = deque()
        self._sum = 0.0
        self._mutex = threading.Lock()

    def add(self, amount: float) -> None:
        with self._mutex:
            now = time.monotonic()
            self._events.append((now, amount))
            self._sum += amount
            self._forget(now)

    def per_second(self) -> float:
        with self._mutex:
            now = time.monotonic()
            self._forget(now)
            return self._sum / min(max(now - self._start_s, 1.0), WINDOW_S)

    def _forget(self, now: float) -> None:
        while self._events and self._events[0][0] < now - WINDOW_S:
            self._sum -= self._events.popleft()[1]
