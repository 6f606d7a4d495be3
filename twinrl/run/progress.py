"""This module shows the progress of a run: every stage, its rate, the time left, one line for each that is done.

    with Progress(["scan", "demonstrations", "twin RL"]) as progress:
        with progress.stage("twin RL", total=16000, unit="steps") as stage:
            stage.update(done, success=0.91)

On a terminal the running stage is a live bar; elsewhere (a file, a pipe, CI) it is a plain line at its start, one every
ten seconds and one at its end. A quiet stage has its first and last line alone: the terminal is for a person's answers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from protos.status import duration

PLAIN_INTERVAL_S = 10.0
REFRESH_HZ = 4.0
BAR_WIDTH = 20
MIN_SHARE_FOR_ESTIMATE = 0.01

Note = float | int | str


def rate(done: float, elapsed_s: float, unit: str) -> str:
    """Reads "211 steps/s", or "8.4 s/view" when one takes longer than a second."""
    if done <= 0 or elapsed_s <= 0:
        return ""
    if done >= elapsed_s:
        return f"{done / elapsed_s:,.0f} {unit}/s" if done >= 10 * elapsed_s else f"{done / elapsed_s:.1f} {unit}/s"
    return f"{elapsed_s / done:.1f} s/{unit.removesuffix('s')}"


class Stage:
    """One stage under way. `done` counts in `unit`; `notes` are the numbers worth watching."""

    def __init__(
        self, name: str, position: str, *, total: float, unit: str, on_update: Callable[["Stage"], None]
    ) -> None:
        self.name, self.position, self.total, self.unit = name, position, total, unit
        self.done: float = 0
        self.notes: dict[str, Note] = {}
        self._on_update = on_update
        self._started = time.monotonic()
        self._ended: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the stage began, up to its end."""
        return (time.monotonic() if self._ended is None else self._ended) - self._started

    @property
    def left_s(self) -> float | None:
        """Seconds until `total` at the mean rate so far; None before a hundredth is done."""
        if self.done < MIN_SHARE_FOR_ESTIMATE * self.total:
            return None
        return self.elapsed_s * max(self.total - self.done, 0) / self.done

    def update(self, done: float, **notes: Note) -> None:
        """Says how much is done now; notes stay until they are given again."""
        self.done = done
        self.notes.update(notes)
        self._on_update(self)

    def end(self) -> None:
        """Stops the stage's clock."""
        self._ended = time.monotonic()

    def counts(self) -> str:
        """Reads "1,200 / 16,000 steps"."""
        return f"{self.done:,.0f} / {self.total:,.0f} {self.unit}"

    def details(self) -> str:
        """Rate and notes, for the end of a line."""
        notes = (f"{name.replace('_', ' ')} {_short(value)}" for name, value in self.notes.items())
        return "  ".join(filter(None, (rate(self.done, self.elapsed_s, self.unit), *notes)))


def _nothing(stage: Stage) -> None:
    """Shows nothing of an update."""


def _short(value: Note) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Progress:
    """The stages of one run, in order; a context manager."""

    def __init__(self, stages: Sequence[str], *, console: Console | None = None) -> None:
        self.console = console or Console()
        self._names = list(stages)
        self._current: Stage | None = None
        self._next_plain = 0.0
        self._live: Live | None = None
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self._bar, refresh_per_second=REFRESH_HZ)

    @contextmanager
    def stage(self, name: str, *, total: float = 1, unit: str = "steps", quiet: bool = False) -> Iterator[Stage]:
        """Shows a stage while the block runs; its line says "stopped" if the block raises."""
        position = self._position(name)
        on_update = _nothing if quiet else self._plain_update
        current = Stage(name, position, total=total, unit=unit, on_update=on_update)
        finished = False
        with self._stilled() if quiet else nullcontext():
            self._current = current
            self._plain(f"{position} {name} started")
            try:
                yield current
                finished = True
            finally:
                current.end()
                self._current = None
                self._end_line(current, finished=finished)

    @contextmanager
    def _stilled(self) -> Iterator[None]:
        """Leaves the terminal to somebody else while the block runs."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        try:
            yield
        finally:
            if live is not None:
                live.start()
            self._live = live

    def skip(self, name: str, reason: str) -> None:
        """A line for a stage that needs no work, as after `--resume`."""
        self.console.print(Text.assemble(("- ", "dim"), f"{self._position(name)} {name}  ", (reason, "dim")))

    def say(self, text: str) -> None:
        """A line of its own above the running stage."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _position(self, name: str) -> str:
        assert name in self._names, f"{name!r} is not among the stages {self._names}"
        return f"[{self._names.index(name) + 1}/{len(self._names)}]"

    def _bar(self) -> Text:
        if self._current is None:
            return Text()
        stage, left_s = self._current, self._current.left_s
        full = round(BAR_WIDTH * min(stage.done / max(stage.total, 1e-9), 1.0))
        left = "" if left_s is None else f"{duration(left_s)} left"
        return Text.assemble(
            (f"{stage.position} {stage.name} ", "bold"),
            ("━" * full, "cyan"),
            ("━" * (BAR_WIDTH - full), "dim"),
            " " + "  ".join(filter(None, (left, stage.counts(), stage.details()))),
            overflow="ellipsis",
            no_wrap=True,
        )

    def _plain_update(self, stage: Stage) -> None:
        if self._live is not None or time.monotonic() < self._next_plain:
            return
        left = "" if stage.left_s is None else f"  {duration(stage.left_s)} left"
        head = f"{stage.position} {stage.name}  {stage.counts()}  {duration(stage.elapsed_s)}{left}"
        self._plain(f"{head}  {stage.details()}")

    def _plain(self, text: str) -> None:
        """Draws the live bar anew, or writes a line where there is none; the next line is due an interval later."""
        if self._live is not None:
            self._live.refresh()
            return
        self._next_plain = time.monotonic() + PLAIN_INTERVAL_S
        self.say(text)

    def _end_line(self, stage: Stage, *, finished: bool) -> None:
        mark, note = (("✓ ", "green"), "") if finished else (("✗ ", "red"), f"stopped at {stage.counts()}  ")
        amount = f"{stage.done:,.0f} {stage.unit}  " if finished and stage.done > 0 else ""
        head = f"{stage.position} {stage.name}  {note}{amount}{duration(stage.elapsed_s)}  "
        self.console.print(Text.assemble(mark, head, (stage.details(), "dim")))
