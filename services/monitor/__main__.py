"""`python -m services.monitor --replay URL --weights HOST:PORT` serves a Prometheus page of a cluster until SIGTERM.

One scrape asks every service once, so one target covers hundreds of actors, and a Redis or Valkey without an exporter
too.
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from protos.process import run_process, stop_on_signal
from services.monitor import Addresses, ClusterSettings, process_samples, read_cluster, samples
from services.telemetry import Sample, start_metrics_server

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Serves the state of a cluster to Prometheus."""

    addresses: Annotated[Addresses, tyro.conf.arg(name="")] = field(default_factory=Addresses)
    run: Path | None = None
    """Folder of a run on this machine, whose processes are on the page too."""
    listen: str = "127.0.0.1:7080"
    """host:port on loopback; port 0 picks a free one."""


def main(arguments: Arguments) -> None:
    """Serves until a signal."""
    stop, settings = stop_on_signal(), arguments.addresses.settings()
    with start_metrics_server(arguments.listen, lambda: collect(settings, arguments.run)) as server:
        log.info("http://%s/metrics", server.address)
        stop.wait()


def collect(settings: ClusterSettings, run: Path | None) -> list[Sample]:
    """Reads the cluster once, and the run's processes if there is one."""
    return samples(read_cluster(settings)) + ([] if run is None else process_samples(run))


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
