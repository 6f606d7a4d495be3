"""This module names the steps of a scan and says how far a scan has come."""

import time
from collections.abc import Callable
from enum import Enum


class ScanStep(Enum):
    """A step of a scan; its value is the share of a scan's usual time that passes before it, 0..1."""

    FRAMES = 0.0
    FEATURES = 0.02
    MATCHING = 0.15
    MAPPING = 0.30
    ALIGNMENT = 0.40
    TRAINING = 0.42
    REPORT = 0.99

    @property
    def label(self) -> str:
        """Returns the name for people and for report.json."""
        return self.name.lower()

    def total(self, share: float) -> float:
        """Returns the share of the whole scan that is done when `share` (0..1) of this step is done."""
        later = [step.value for step in ScanStep if step.value > self.value]
        return float(self.value + share * (min(later, default=1.0) - self.value))


Progress = Callable[[ScanStep, float], None]
"""A function that is told the running step and how much of that step is done, 0..1."""


class Clock:
    """A clock measures the wall time of every step and passes on the progress."""

    def __init__(self, on_progress: Progress) -> None:
        self._tell = on_progress
        self._step, self._since = ScanStep.FRAMES, time.monotonic()
        self.seconds: dict[ScanStep, float] = {}
        """Wall time of every step that has ended; a step that ran twice counts both."""

    def __call__(self, step: ScanStep, share: float) -> None:
        """Ends the running step if `step` is another."""
        if step is not self._step:
            self.stop()
            self._step = step
        self._tell(step, share)

    def stop(self) -> None:
        """Ends the running step."""
        now = time.monotonic()
        self.seconds[self._step] = self.seconds.get(self._step, 0.0) + now - self._since
        self._since = now
