"""`twinrl status`: a run, a cluster, or both, once or every second."""

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
from services.monitor import ClusterSettings, Reading, rates_between, read_cluster
from services.monitor.addresses import Addresses, of_run, overlaid
from twinrl import cluster, status

FILE_CELLS = 120
"""Width of a table that goes to a file or another program."""
INTERVAL_S = 1.0
GLANCE_S = 1.6
"""Between the two looks of a single answer: everyone who is alive has spoken meanwhile."""
WINDOW_S = 10.0
"""Rates are taken over so long."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """Say what each process of a run does, how its services are, and who waits on whom.

    `twinrl status runs/demo` finds the services by itself; a cluster without a run folder is named by its addresses.
    """

    run: tyro.conf.Positional[Path | None] = None
    """Folder of the run, for example runs/demo."""
    addresses: Annotated[Addresses, tyro.conf.arg(name="")] = field(default_factory=Addresses)
    watch: bool = False
    """Go on, once a second, until Ctrl-C."""


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(Status, prog="twinrl status", args=arguments, config=(tyro.conf.UseAppendAction,))
    given = command.addresses.settings()
    if command.run is None and given == ClusterSettings(credentials=given.credentials):
        raise InputError("name a run folder, as in runs/demo, or services: --replay, --weights, --guide")
    view = View(command.run, given)
    console = Console() if sys.stdout.isatty() else Console(width=FILE_CELLS)
    if not command.watch:
        console.print(view.glance())
        return 0
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            live.update(view.look(), refresh=True)
            time.sleep(INTERVAL_S)


class View:
    """Looks again and again, and remembers enough to tell rates."""

    def __init__(self, run: Path | None, given: ClusterSettings) -> None:
        self._run, self._given = run, given
        self._seen: deque[Reading] = deque()

    def glance(self) -> RenderableType:
        """Two looks, so that the second can tell rates."""
        started = time.monotonic()
        first = self.look()
        if not self._seen:
            return first
        time.sleep(max(0.0, started + GLANCE_S - time.monotonic()))
        return self.look()

    def look(self) -> RenderableType:
        """What is now. Raises InputError for a folder that is no run."""
        parts: list[RenderableType] = []
        settings = self._given
        if self._run is not None:
            state = status.read_run(self._run)
            parts.append(status.render(state))
            if state.running:
                settings = overlaid(of_run(self._run), self._given)
        if settings != ClusterSettings(credentials=settings.credentials):
            reading = read_cluster(settings)
            self._remember(reading)
            parts += [*([Text()] if parts else []), cluster.render(reading, rates_between(self._seen[0], reading))]
        return Group(*parts)

    def _remember(self, reading: Reading) -> None:
        self._seen.append(reading)
        while reading.t - self._seen[0].t > WINDOW_S:
            self._seen.popleft()
