"""This module runs a service in its own process, which a test may kill."""

import subprocess
import sys
import time
from pathlib import Path


class ServiceProcess:
    """A service process runs `python -m <module>` on loopback and restarts on the same port."""

    def __init__(self, module: str, folder: Path, *arguments: str) -> None:
        self.module, self.folder, self.arguments = module, folder, arguments
        self.port = 0
        self._process: subprocess.Popen | None = None
        self.log = folder / "service.log"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> "ServiceProcess":
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", self.module, "--listen", self.address, "--port-file", str(port_file)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([*command, *self.arguments], stdout=log, stderr=log)
        for _ in range(1200):
            if port_file.exists():
                self.port = int(port_file.read_text())
                return self
            assert self._process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"{self.module} did not listen within 60 s: {self.log.read_text()}")

    def kill(self) -> None:
        """Kills the process with SIGKILL."""
        self._process.kill()
        self._process.wait(timeout=30)

    def stop(self) -> int:
        """Stops the process with SIGTERM; returns its exit status."""
        self._process.terminate()
        return self._process.wait(timeout=30)

    def __enter__(self) -> "ServiceProcess":
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()


def run_to_exit(module: str, *arguments: str) -> tuple[int, str]:
    """Returns exit status and stderr of a service that is expected to refuse."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


def until(condition, what: str, seconds: float = 30.0) -> None:
    """Waits for a condition of another thread or process."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")
