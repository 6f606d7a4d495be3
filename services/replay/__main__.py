"""`python -m services.replay --directory D`: serves a replay of our own until SIGTERM or Ctrl-C."""

import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import tyro

from protos.errors import TwinRLError, Unreachable
from services.replay.server import EmbeddedServer

CHECK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Options:
    """Serves a replay on a unix socket; prints its url."""

    directory: Path
    """Where the data lives; the same directory again brings the same data back."""
    socket: Path | None = None
    """Path of the socket; by default valkey.sock in the directory."""


def serve(options: Options) -> None:
    """Returns after a signal. Raises Unreachable if the server ends by itself."""
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with EmbeddedServer(options.directory, socket=options.socket) as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        while not stop.wait(CHECK_S):
            if not server.running():
                raise Unreachable(f"the replay server in {options.directory} ended: see server.log there")


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        serve(tyro.cli(Options))
    except TwinRLError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
