"""`python -m services.weights --listen 127.0.0.1:7070 --store weights/`: serves weights until SIGTERM or Ctrl-C."""

import asyncio
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from protos.errors import TwinRLError
from services.credentials import Credentials
from services.transport import serve
from services.weights.server import WeightsService
from services.weights.store import VersionStore
from services.weights.tensors import DEFAULT_MAX_PART_BYTES


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
    max_part_bytes: int = DEFAULT_MAX_PART_BYTES
    """Largest part taken."""


async def _serve(arguments: Arguments) -> None:
    store = VersionStore(arguments.store, max_part_bytes=arguments.max_part_bytes)
    service = WeightsService(store, max_part_bytes=arguments.max_part_bytes)
    await serve(
        service.handler(),
        listen=arguments.listen,
        credentials=arguments.credentials,
        port_file=arguments.port_file,
        summary=service.summary,
    )


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s weights %(levelname)s %(message)s")
    try:
        asyncio.run(_serve(tyro.cli(Arguments)))
    except TwinRLError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
