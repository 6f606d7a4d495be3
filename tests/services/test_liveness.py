"""Tests that an actor which stands still or dies is shown as lost, and shown again when it comes back."""

import os
import signal
import subprocess
import sys
from io import StringIO

from rich.console import Console
from service_process import until

from services.monitor import ClusterSettings, Rates, alarms, collect, read_cluster, render_cluster, samples
from services.replay import EmbeddedServer, ReplaySettings

ACTOR = """
import sys, time
from protos.schema import Schema
from services.replay import ReplaySettings, ReplayWriter
with ReplayWriter(ReplaySettings(urls=(sys.argv[1],)), Schema(side_px=16, wrist_px=16), actor="arm", spool=None):
    time.sleep(600)
"""


def start(server):
    return subprocess.Popen([sys.executable, "-c", ACTOR, server.url])


def test_an_actor_that_stands_still_or_dies_is_lost_until_it_comes_back(tmp_path):
    with EmbeddedServer(tmp_path) as server:
        cluster = ClusterSettings(replay=ReplaySettings(urls=(server.url,)))

        def is_up():
            return [sample.value for sample in samples(read_cluster(cluster)) if sample.name == "writer_up"]

        actor = start(server)
        try:
            until(lambda: is_up() == [1.0], "the actor is there")
            os.kill(actor.pid, signal.SIGSTOP)
            until(lambda: is_up() == [0.0], "it is lost")
            assert_lost(cluster)
            os.kill(actor.pid, signal.SIGCONT)
            until(lambda: is_up() == [1.0], "it is back")
            assert collect(cluster, None)["replay"]["lost"] == []
            actor.kill()
            actor.wait(30)
            until(lambda: is_up() == [0.0], "it is lost")
            assert_lost(cluster)
            actor = start(server)
            until(lambda: is_up() == [1.0], "its next life is there")
        finally:
            actor.kill()
            actor.wait(30)


def assert_lost(cluster):
    reading = read_cluster(cluster)
    assert any(alarm.text.startswith("arm: lost, last heard ") for alarm in alarms(reading, Rates()))
    page = collect(cluster, None)["replay"]
    assert (page["writers"], page["lost"]) == (0, ["arm"])
    console = Console(width=100, record=True, file=StringIO())
    console.print(render_cluster(reading, Rates()))
    assert "0 writers  1 lost" in console.export_text()
