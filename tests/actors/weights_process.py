"""The weights service as a process on a fixed port, so that it can be killed and started again."""

import socket
import subprocess
import sys
from pathlib import Path


class WeightsProcess:
    """Serves from the start; `start` after `kill` serves the same version at the same address."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._folder = folder

    def start(self) -> None:
        command = [sys.executable, "-m", "services.weights", "--listen", self.address, "--store", str(self._folder)]
        self._process = subprocess.Popen(command)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(5)

    def __enter__(self) -> "WeightsProcess":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
