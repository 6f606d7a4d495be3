"""Tests that the page shows the answers of processes and services, and the problems of those that are away."""

import json
import math
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from replay_samples import SCHEMA, make_segment, wait_until
from service_process import ServiceProcess
from test_guide_schedule import SCAN, SPACE

from protos.errors import InputError
from protos.settings import save_settings
from protos.status import StatusFile
from services.guide import GuideClient, GuideSettings
from services.monitor import ClusterSettings, PageServer, collect
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter, shard_of


def page_of(run, **services):
    return PageServer(ClusterSettings(**services), run, listen="127.0.0.1:0")


def get(server, path):
    with urllib.request.urlopen(f"http://{server.address}{path}", timeout=30) as reply:
        return reply.read()


@pytest.fixture
def run(tmp_path):
    (tmp_path / "logs").mkdir()
    StatusFile(tmp_path / "logs" / "learner.status.json").write(
        doing="twin RL, update 1200", waiting_for="twin actors", **{"updates/s": 41.0, "weights_age_s": math.inf}
    )
    (tmp_path / "logs" / "torn.status.json").write_text('{"t": ')
    return tmp_path


def test_status_holds_processes_guide_and_the_service_that_is_missing(run):
    settings = save_settings(GuideSettings(space=SPACE), run / "guide.json")
    with ServiceProcess("services.guide", run, "--settings", str(settings)) as guide:
        client = GuideClient(guide.address, deadline_s=30)
        client.set_success(SCAN)
        draw = client.draw()
        client.close()
        server = page_of(run, guide=guide.address, weights="127.0.0.1:1")
        status = json.loads(get(server, "/status.json"))
        server.close()
    assert status["run"] == run.name
    assert abs(status["t"] - time.time()) < 3600
    (learner,) = status["processes"].values()
    assert (learner["doing"], learner["waiting_for"]) == ("twin RL, update 1200", "twin actors")
    assert learner["rates"] == {"updates/s": 41.0, "weights_age_s": None}
    assert status["guide"]["next"]["reason"] == draw.reason
    assert status["guide"]["next"]["configuration"]["poses"]["cube"] == list(draw.configuration.poses["cube"])
    assert [cell["twin_successes"] for cell in status["guide"]["cells"]] == [won for won, _ in SCAN.values()]
    assert "127.0.0.1:1" in status["weights"]["problem"]


def test_the_weights_service_is_shown(run):
    with ServiceProcess("services.weights", run, "--store", str(run / "weights")) as weights:
        server = page_of(run, weights=weights.address)
        status = json.loads(get(server, "/status.json"))
        server.close()
    assert status["weights"] == {"version": 0, "age_s": None, "subscribers": {}}
    assert "guide" not in status
    assert status["alarms"] == []


def test_the_replay_of_the_run_is_found_and_its_writers_shown(run, tmp_path):
    with EmbeddedServer(run / "replay") as replay:
        settings = ReplaySettings(urls=(replay.url, "redis://127.0.0.1:1"), prefix="twinrl-run")
        save_settings(ClusterSettings(replay=settings), run / "settings" / "fleet.json")
        name = next(f"twin-{i}" for i in range(99) if shard_of(f"twin-{i}", 2) == 0)
        with ReplayWriter(settings, SCHEMA, actor=name, spool=run / "spool") as writer:
            writer.add(make_segment(np.random.default_rng(0)), ["twin"])
            assert writer.flush(20) == 0
            wait_until(lambda: collect(ClusterSettings(), run)["replay"]["writers"] == 1)
            status = collect(ClusterSettings(), run)
    assert (status["replay"]["shards"], status["replay"]["shards_up"], status["replay"]["unsent"]) == (2, 1, 0)
    assert "redis://127.0.0.1:1 did not answer" in status["alarms"][0]["text"]
    assert status["alarms"][0]["severity"] == "error"


def test_the_page_is_served_and_nothing_else(run):
    server = page_of(run)
    assert b"Put the object here next" in get(server, "/")
    assert b'twinrl_process_waiting{process="learner"} 1.0' in get(server, "/metrics")
    for path in ("/../pyproject.toml", "/logs/learner.status.json"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(server, path)
    server.close()


def test_the_page_stays_on_loopback(run):
    with pytest.raises(InputError, match="ssh -L"):
        PageServer(ClusterSettings(), run, listen="0.0.0.0:0")
