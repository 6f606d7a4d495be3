"""This module serves the guide: `python -m services.guide --settings guide.json`."""

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path

from protos.process import run_process
from protos.settings import load_settings
from services.guide.schedule import GuideSettings
from services.guide.server import GuideServer
from services.net import Credentials


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Chooses initial configurations from where the twin says the policy fails."""

    settings: Path
    """JSON of GuideSettings."""
    state: Path | None = None
    """Keeps the success map for a resumed run."""
    history: Path | None = None
    """Folder for S_target over time and the results of scanning twins."""
    listen: str = "127.0.0.1:0"
    """host:port; port 0 picks a free one. Beyond loopback only with credentials."""
    port_file: Path | None = None
    """Receives the bound port, for launchers."""
    credentials: Credentials = field(default_factory=Credentials)


async def _serve(arguments: Arguments) -> None:
    settings = load_settings(GuideSettings, arguments.settings)
    server = GuideServer(settings, state=arguments.state, history=arguments.history)
    await server.serve(listen=arguments.listen, credentials=arguments.credentials, port_file=arguments.port_file)


def main(arguments: Arguments) -> None:
    asyncio.run(_serve(arguments))


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
