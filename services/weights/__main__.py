"""This module serves weights: `python -m services.weights --listen 127.0.0.1:7070 --store weights/`."""

import asyncio
import contextlib
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

from protos.process import run_process
from services.net import Credentials, serve
from services.telemetry import start_metrics_server
from services.weights.server import DEFAULT_MAX_WATCHERS, WeightsService
from services.weights.store import VersionStore
from services.weights.wire import Limits

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Takes weights from the learner, keeps the newest version on disk, serves it to all who act."""

    store: Path
    """Folder that keeps the newest version."""
    listen: str = "127.0.0.1:0"
    """host:port; port 0 picks a free one. Beyond loopback only with credentials."""
    port_file: Path | None = None
    """Receives the bound port, for launchers."""
    credentials: Credentials = field(default_factory=Credentials)
    max_part_bytes: int = Limits.max_part_bytes
    """Largest part taken."""
    max_version_bytes: int = Limits.max_version_bytes
    """Largest version taken, all parts together."""
    max_watchers: int = DEFAULT_MAX_WATCHERS
    """Subscribers beyond this many are refused."""
    metrics: str | None = None
    """host:port of a Prometheus page, loopback only."""


async def _serve(arguments: Arguments) -> None:
    limits = Limits(max_part_bytes=arguments.max_part_bytes, max_version_bytes=arguments.max_version_bytes)
    store = VersionStore(arguments.store, limits=limits)
    service = WeightsService(store, limits=limits, max_watchers=arguments.max_watchers)
    with contextlib.ExitStack() as exits:
        if arguments.metrics is not None:
            page = start_metrics_server(arguments.metrics, service.metrics)
            exits.callback(page.close)
            log.info("metrics at http://%s/metrics", page.address)
        await serve(
            service.handler(),
            listen=arguments.listen,
            credentials=arguments.credentials,
            port_file=arguments.port_file,
            summary=service.summary,
        )


def main(arguments: Arguments) -> None:
    asyncio.run(_serve(arguments))


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
