"""`python -m services.monitor.console --run runs/demo`: shows a run on a page until SIGTERM or Ctrl-C."""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

from protos.process import run_process, stop_on_signal
from services.monitor.console.server import ConsoleServer
from services.monitor.console.status import Sources
from services.net.credentials import Credentials

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A page with what every process does and where to put the object next."""

    run: Path
    """Folder of the run."""
    guide: str | None = None
    """host:port of the guide."""
    weights: str | None = None
    """host:port of the weights service."""
    listen: str = "127.0.0.1:0"
    """host:port on loopback; port 0 picks a free one."""
    port_file: Path | None = None
    """Receives the bound port, for launchers."""
    credentials: Credentials = field(default_factory=Credentials)
    """For the guide and the weights."""


def main(arguments: Arguments) -> None:
    stop = stop_on_signal()
    sources = Sources(
        run=arguments.run, guide=arguments.guide, weights=arguments.weights, credentials=arguments.credentials
    )
    server = ConsoleServer(sources, listen=arguments.listen, port_file=arguments.port_file)
    log.info("http://%s", server.address)
    stop.wait()
    server.close()


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
