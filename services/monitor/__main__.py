"""`python -m services.monitor --run runs/demo` serves a page and samples for Prometheus until SIGTERM or Ctrl-C.

A cluster without a run on this machine is named by its addresses: `--replay URL --weights HOST:PORT`. One scrape asks
every service once, so one target covers hundreds of actors, and a Redis or Valkey without an exporter too.
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from protos.process import run_process, stop_on_signal
from services.monitor.page import PageServer
from services.monitor.reading import Addresses

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Serves a page with the state of a run and its cluster, and /metrics for Prometheus."""

    addresses: Annotated[Addresses, tyro.conf.arg(name="")] = field(default_factory=Addresses)
    run: Path | None = None
    """Folder of a run on this machine: its processes are shown too, and its services found in its settings."""
    listen: str = "127.0.0.1:7080"
    """host:port on loopback; port 0 picks a free one."""
    port_file: Path | None = None
    """Receives the bound port, for launchers."""


def main(arguments: Arguments) -> None:
    """Serves until a signal."""
    stop, given = stop_on_signal(), arguments.addresses.settings()
    with PageServer(given, arguments.run, listen=arguments.listen, port_file=arguments.port_file) as server:
        log.info("http://%s, http://%s/metrics", server.address, server.address)
        stop.wait()


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
