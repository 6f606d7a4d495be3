"""`twinrl status` shows a run, a cluster, or both, once or every second."""

import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from protos.errors import InputError
from services.monitor import (
    Addresses,
    ClusterSettings,
    Reading,
    of_run,
    overlaid,
    rates_between,
    read_cluster,
    read_run,
    render_cluster,
    render_run,
)

FILE_CELLS = 120
"""Width of a table that goes to a file or another program."""
INTERVAL_S = 1.0
RATES_S = 1.6
"""Time between the two readings of a single answer: every presence is sent again meanwhile."""
WINDOW_S = 10.0
"""Time over which rates are taken."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """Shows the activity of each process of a run, the state of its services, and who waits for whom.

    `twinrl status runs/demo` finds the services by itself; a cluster without a run folder is named by its addresses.
    """

    run: tyro.conf.Positional[Path | None] = None
    """Folder of the run, for example runs/demo."""
    addresses: Annotated[Addresses, tyro.conf.arg(name="")] = field(default_factory=Addresses)
    watch: bool = False
    """Show it again each second, until Ctrl-C."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code."""
    command = tyro.cli(Status, prog="twinrl status", args=arguments, config=(tyro.conf.UseAppendAction,))
    given = command.addresses.settings()
    if command.run is None and given.empty:
        raise InputError("name a run folder, as in runs/demo, or services: --replay, --weights, --guide")
    view = View(command.run, given)
    console = Console() if sys.stdout.isatty() else Console(width=FILE_CELLS)
    if not command.watch:
        console.print(view.once())
        return 0
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            live.update(view.now(), refresh=True)
            time.sleep(INTERVAL_S)


class View:
    """A view reads run and cluster again and again, and keeps the readings of ten seconds for rates."""

    def __init__(self, run: Path | None, given: ClusterSettings) -> None:
        self._run, self._given = run, given
        self._seen: deque[Reading] = deque()

    def once(self) -> RenderableType:
        """Renders the second of two readings, which has rates."""
        started = time.monotonic()
        first = self.now()
        if not self._seen:
            return first
        time.sleep(max(0.0, started + RATES_S - time.monotonic()))
        return self.now()

    def now(self) -> RenderableType:
        """Renders the present state. Raises InputError for a folder that is no run."""
        parts: list[RenderableType] = []
        settings = self._given
        if self._run is not None:
            state = read_run(self._run)
            parts.append(render_run(state))
            if state.running:
                settings = overlaid(of_run(self._run), self._given)
        if not settings.empty:
            reading = read_cluster(settings)
            self._remember(reading)
            parts += [*([Text()] if parts else []), render_cluster(reading, rates_between(self._seen[0], reading))]
        return Group(*parts)

    def _remember(self, reading: Reading) -> None:
        self._seen.append(reading)
        while reading.t - self._seen[0].t > WINDOW_S:
            self._seen.popleft()
