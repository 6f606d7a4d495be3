"""The latest observations of every slot, for policies that look back.

    step of the episode   0          1          2
    window of 2           [o0  o0]   [o0  o1]   [o1  o2]
    pad                   [ 1   0]   [ 0   0]   [ 0   0]

Where an episode has no earlier observation its first one stands in, marked in `pad`: as in the batches that the learner
draws (`services.replay.read.batch`). A window of 1 passes observations on as they are.
"""

import numpy as np

from protos.schema import Bools, Observation


class ObservationHistory:
    """Windows of `window` observations, the newest last, for n slots."""

    def __init__(self, n: int, window: int) -> None:
        self.window = window
        self._age = np.zeros(n, np.intp)  # earlier observations of the slot's episode
        self._windows: Observation | None = None

    def begin(self, slot: int) -> None:
        """The slot's next observation is the first of an episode."""
        self._age[slot] = 0

    def push(self, observation: Observation) -> tuple[Observation, Bools | None]:
        """Takes the newest observation of all slots (n rows); returns their windows and `pad` (n, window).

        The windows' pictures are (n, window, P, P, 3), their proprioception (n, window, 25). They are valid until the
        next call.
        """
        if self.window == 1:
            return observation, None
        if self._windows is None:
            self._windows = _repeated(observation, self.window)
        pad = self._age[:, None] < np.arange(self.window - 1, -1, -1)
        for name in Observation.__slots__:
            _append(getattr(self._windows, name), getattr(observation, name), self._age == 0)
        self._age += 1
        return self._windows, pad


def _repeated(observation: Observation, window: int) -> Observation:
    """Windows that hold only this observation."""
    return Observation(
        **{name: np.repeat(getattr(observation, name)[:, None], window, axis=1) for name in Observation.__slots__}
    )


def _append(windows: np.ndarray, newest: np.ndarray, first: Bools) -> None:
    """Moves windows (n, W, ...) on by one; where the episode begins the newest fills the whole window."""
    windows[:, :-1] = windows[:, 1:]
    windows[:, -1] = newest
    windows[first] = newest[first, None]
