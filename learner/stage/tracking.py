"""This module writes a stage's metrics: metrics.jsonl always, TensorBoard and Weights & Biases where asked for.

    stage ─ write ─┬─► metrics.jsonl                       flushed before write returns
                   ├─► watch(line)                         a terminal, a test
                   └─► queue ─► thread ─► Sink.log         one of each per tracker

A tracker never holds training up: a thread of its own talks to it, lines that it does not take in time are dropped,
and one that fails is given up with a warning. Its lines are in metrics.jsonl.

    the thread waits for   a line or the end      unblocked by write and close
    close waits for        the thread             up to CLOSE_TIMEOUT_S, then leaves it behind
"""

import logging
import math
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from protos.errors import InputError
from protos.process import Closing
from services.telemetry import MetricsLog

log = logging.getLogger(__name__)
CLOSE_TIMEOUT_S = 30.0
INIT_TIMEOUT_S = 60.0
WAITING_LINES = 10_000

Tracker = Literal["tensorboard", "wandb"]
Line = Mapping[str, float]
Watch = Callable[[Line], None]


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """These settings name the trackers that show metrics."""

    to: tuple[Tracker, ...] = ()
    """Trackers beside metrics.jsonl."""
    project: str = "twinrl"
    offline: bool = False
    """W&B writes to the folder only; `wandb sync` uploads it later."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, as trackers are told of it."""

    out: Path
    stage: str
    settings: TrackingSettings
    config: Mapping[str, Any]


class Sink(Protocol):
    """A sink sends lines to a tracker; one thread uses it."""

    def log(self, step: int, scalars: Line) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Writes event files in `out`/tensorboard."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.out / "tensorboard"))

    def log(self, step: int, scalars: Line) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Writes a run of Weights & Biases, files in `out`/wandb. Needs `wandb login` or WANDB_API_KEY when online."""

    def __init__(self, run: Run) -> None:
        import wandb

        if not run.settings.offline and not wandb.login(prompt=False):
            raise InputError("not logged in: `wandb login`, WANDB_API_KEY, or tracking.offline")
        self._run = wandb.init(
            project=run.settings.project,
            name=f"{run.out.resolve().parent.name}-{run.stage}",
            job_type=run.stage,
            dir=str(run.out),
            config=dict(run.config),
            mode="offline" if run.settings.offline else "online",
            settings=wandb.Settings(init_timeout=INIT_TIMEOUT_S, console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, scalars: Line) -> None:
        self._run.log({"step": step, **scalars})

    def close(self) -> None:
        self._run.finish()


_SINKS: dict[Tracker, Callable[[Run], Sink]] = {"tensorboard": TensorBoard, "wandb": WandB}
_PACKAGES: dict[Tracker, str] = {"tensorboard": "tensorboard", "wandb": "wandb"}


class Feed:
    """Hands lines to one tracker, in a thread."""

    def __init__(self, name: str, make: Callable[[], Sink]) -> None:
        self.name, self._make = name, make
        self.dropped = 0
        self._lines: queue.Queue[tuple[int, Line] | None] = queue.Queue(WAITING_LINES)
        self._failed = False
        self._thread = threading.Thread(target=self._run, name=f"tracking-{name}", daemon=True)
        self._thread.start()

    def write(self, step: int, scalars: Line) -> None:
        """Hands a line over, unless the tracker has failed or is too far behind."""
        if self._failed:
            return
        try:
            self._lines.put_nowait((step, scalars))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Lets the tracker finish, for a while."""
        if not self._failed:
            with suppress(queue.Full):
                self._lines.put(None, timeout=CLOSE_TIMEOUT_S)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            log.warning("%s did not finish within %g s; metrics.jsonl has everything", self.name, CLOSE_TIMEOUT_S)
        if self.dropped:
            log.warning("%s was too slow for %d lines; metrics.jsonl has them", self.name, self.dropped)

    def _run(self) -> None:
        try:
            sink = self._make()
            while (line := self._lines.get()) is not None:
                sink.log(*line)
            sink.close()
        except Exception as error:  # root of the thread: training goes on, and the log says that the tracker is gone
            self._failed = True
            log.warning("%s is given up: %s; metrics.jsonl has everything", self.name, error)


class Tracking(Closing):
    """Writes the metrics of one stage; a context manager."""

    def __init__(
        self,
        settings: TrackingSettings,
        out: Path,
        *,
        stage: str,
        config: Mapping[str, Any],
        watch: Watch | None = None,
    ) -> None:
        """`config` is what trackers show of a stage's settings. Raises InputError where a package is not installed."""
        self._watch = watch
        run = Run(out=out, stage=stage, settings=settings, config=config)
        _check_installed(settings.to)
        self._log = MetricsLog(out / "metrics.jsonl", stage=stage)
        self._feeds = [Feed(name, lambda make=_SINKS[name]: make(run)) for name in settings.to]  # type: ignore[misc]

    def write(self, *, step: int, total: int, **scalars: float) -> None:
        """Writes one line of scalars at `step` of `total`."""
        self._log.write(step=step, total=total, **scalars)
        finite = {name: float(value) for name, value in scalars.items() if math.isfinite(value)}
        for feed in self._feeds:
            feed.write(step, finite)
        if self._watch is not None:
            self._watch({"step": step, "total": total, **scalars})

    def close(self) -> None:
        """Closes the log and the trackers."""
        self._log.close()
        for feed in self._feeds:
            feed.close()


def _check_installed(trackers: tuple[Tracker, ...]) -> None:
    from importlib.util import find_spec

    for name in trackers:
        if find_spec(_PACKAGES[name]) is None:
            raise InputError(f"tracking={name!r}: the package {_PACKAGES[name]} is not installed")
