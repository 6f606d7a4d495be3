"""Tests that keepalive notices a peer that is frozen or unplugged, which sends nothing and closes nothing."""

import os
import signal
import subprocess
import sys
from contextlib import closing

from service_process import ServiceProcess, until

from services.weights import WeightSubscriber

PATIENCE_S = 60.0
FROZEN = """
import sys
from services.weights import WeightSubscriber
subscriber = WeightSubscriber(sys.argv[1], name="frozen")
sys.stdin.read()
"""


def test_a_frozen_peer_is_noticed_and_its_place_is_free(tmp_path):
    """A subscriber freezes, and at the same time the server of another one."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    stores = [("--store", str(folder / "store")) for folder in folders]
    with (
        ServiceProcess("services.weights", folders[0], *stores[0]) as server,
        ServiceProcess("services.weights", folders[1], *stores[1]) as sleeper,
        closing(WeightSubscriber(server.address, name="lively")) as lively,
        closing(WeightSubscriber(sleeper.address, name="left alone")) as alone,
        subprocess.Popen([sys.executable, "-c", FROZEN, server.address], stdin=subprocess.PIPE) as frozen,
    ):
        until(lambda: "frozen watches" in server.log.read_text(), "it watches", PATIENCE_S)
        until(lambda: alone.stats()["connected"] and lively.stats()["connected"], "the others watch", PATIENCE_S)
        pids = [frozen.pid, sleeper.pid]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: "frozen left" in server.log.read_text(), "its place is free", PATIENCE_S)
            until(lambda: not alone.stats()["connected"], "the frozen server is noticed", PATIENCE_S)
            assert lively.stats()["connected"]
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            frozen.kill()
