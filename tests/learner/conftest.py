"""These fixtures give the tests one thread each, for they share two cores, and a weights service where needed."""

import subprocess
import sys
import time

import pytest
import torch

torch.set_num_threads(1)
START_TIMEOUT_S = 60.0


@pytest.fixture
def weights(tmp_path):
    """Starts a weights process for the test; returns its address."""
    port = tmp_path / "port"
    command = [sys.executable, "-m", "services.weights", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*command, "--store", str(tmp_path / "store"), "--port-file", str(port)])
    deadline = time.monotonic() + START_TIMEOUT_S
    while not port.exists():
        assert time.monotonic() < deadline, f"the weights process does not listen within {START_TIMEOUT_S:g} s"
        time.sleep(0.05)
    yield f"127.0.0.1:{port.read_text().strip()}"
    process.terminate()
    process.wait(timeout=30)
