"""`python -m services.replay --directory D` serves an embedded replay until SIGTERM or Ctrl-C.

A server that ends by itself, killed or out of memory, is started again on its data within a second and the time that
reading its log takes; writers keep their segments meanwhile.
"""

import logging
import sys
import time
from collections import deque
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from protos.errors import InputError, Unreachable
from protos.process import run_process, stop_on_signal
from services.replay.connection import connect, reaching
from services.replay.scripts import install
from services.replay.server import EmbeddedServer, ServerConfig, memory_for, replay_samples, server_stats
from services.replay.settings import ReplaySettings, masked
from services.telemetry import MetricsServer, Sample, start_metrics_server

log = logging.getLogger(__name__)

CHECK_S = 0.5
DEATHS, WINDOW_S = 5, 300.0
"""A server that died so often within so many seconds is not started again."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Serves a replay on a unix socket, and on a TCP port if asked to; prints its urls without the password."""

    directory: Path | None = None
    """Folder of the data; the same directory again brings the same data back."""
    install: tuple[str, ...] = ()
    """Servers of your own to load the replay's scripts into, after each of their starts, as the administrator (url of
    the user admin, credentials.password); then nothing is served."""
    config: Annotated[ServerConfig, tyro.conf.arg(name="")] = field(default_factory=ServerConfig)
    budget_bytes: int | None = None
    """The runs' capacity_bytes, from which the memory limit follows in place of memory_bytes."""
    metrics: str | None = None
    """host:port on loopback of a Prometheus page about this server."""
    prefix: str = "twinrl"
    """Prefix of the run's keys, whose rings the page shows."""

    def server(self) -> EmbeddedServer:
        """Makes the server; with a budget its memory follows from the budget."""
        if self.directory is None:
            raise InputError("--directory: name the folder of the data, or servers to --install the scripts in")
        if self.budget_bytes is None:
            return EmbeddedServer(self.directory, self.config)
        memory = memory_for(ReplaySettings(urls=("unix:///",), capacity_bytes=self.budget_bytes))
        return EmbeddedServer(self.directory, replace(self.config, memory_bytes=memory))


def main(arguments: Arguments) -> None:
    """Serves until a signal. Raises Unreachable if the server ends by itself again and again."""
    if arguments.install:
        install_scripts(ReplaySettings(urls=arguments.install, credentials=arguments.config.credentials))
        return
    stop = stop_on_signal()
    server = arguments.server()
    deaths = Deaths()
    with ExitStack() as stack:
        stack.enter_context(server)
        if arguments.metrics is not None:
            replay = ReplaySettings(urls=(server.url,), prefix=arguments.prefix)
            stack.enter_context(metrics_page(arguments.metrics, replay, deaths))
        for url in (server.url, server.tcp_url):
            if url is not None:
                sys.stdout.write(f"{masked(url)}\n")
        sys.stdout.flush()
        problem = ""
        while not stop.wait(CHECK_S):
            if server.running():
                problem = refreshed(server, problem)
            else:
                deaths.start_again(server)


class Deaths:
    """Counts the times that a server ended by itself, and starts it again."""

    def __init__(self) -> None:
        self.count = 0
        self._latest: deque[float] = deque(maxlen=DEATHS)

    def start_again(self, server: EmbeddedServer) -> None:
        """Starts the server with what its log of commands has; tried again later where that fails.

        Raises Unreachable, with the last line of its log, when it has died too often.
        """
        self.count += 1
        self._latest.append(time.monotonic())
        if len(self._latest) == DEATHS and self._latest[-1] - self._latest[0] < WINDOW_S:
            raise Unreachable(
                f"the replay server in {server.directory} ended {DEATHS} times within {WINDOW_S:g} s and is not "
                f"started again; its last line: {server.last_line()}"
            )
        log.warning("the replay server ended by itself (%d so far) and is started again", self.count)
        try:
            server.start()
        except Unreachable as error:
            log.error("%s", error)


def refreshed(server: EmbeddedServer, before: str) -> str:
    """Puts what was renewed into use; returns why that was not possible. A problem that is not new is not logged."""
    try:
        server.refresh()
    except (InputError, Unreachable) as error:
        if str(error) != before:
            log.warning("what was renewed is not in use yet: %s", error)
        return str(error)
    return ""


def install_scripts(settings: ReplaySettings) -> None:
    """Loads the scripts into every server. Raises Unreachable, InputError."""
    for shard in range(settings.shards):
        with reaching(settings, shard), closing(connect(settings, shard)) as client:
            install(client)


def metrics_page(address: str, settings: ReplaySettings, deaths: Deaths) -> MetricsServer:
    """Starts a Prometheus page about the server of a shard."""

    def samples() -> list[Sample]:
        return [*replay_samples(server_stats(settings)), Sample(name="replay_restarts_total", value=deaths.count)]

    page = start_metrics_server(address, samples)
    log.info("http://%s/metrics", page.address)
    return page


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
