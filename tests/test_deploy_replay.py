"""The replay of a lab: users with the rights that they need and no more, tried on a server that knows these users."""

import json
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import redis
import yaml

from protos.episode import Segment
from protos.errors import InputError
from protos.schema import Observation, Outcome, Schema, Source
from services.monitor import ClusterSettings, read_cluster
from services.net import Credentials, Role
from services.replay import (
    EmbeddedServer,
    Keys,
    ReaderSettings,
    ReplayReader,
    ReplaySettings,
    ReplayWriter,
    ServerConfig,
    connect,
    delete_buffer,
    read_episodes,
    users_text,
)
from twin import tasks
from twinrl.commands import certificates

ROOT = Path(__file__).resolve().parents[1]
VALKEY = ROOT / "deploy" / "valkey"
USERS = ("learner", "twin", "robot", "guide", "monitor", "console")
PREFIX = "twinrl-lab"
SCHEMA = Schema(side_px=16, wrist_px=16)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The folder that `twinrl certificates` makes, with its users of the replay."""
    folder = tmp_path_factory.mktemp("lab") / "certs"
    assert certificates.main(["--out", str(folder), "--host", "127.0.0.1", "--prefix", PREFIX]) == 0
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, lab):
    """A server with the users of the lab; gives the path of its socket."""
    administrator = Credentials(password=lab / "admin" / "password")
    config = ServerConfig(users=(lab / "users.acl",), credentials=administrator)
    with EmbeddedServer(tmp_path_factory.mktemp("acl") / "data", config) as running:
        yield running.socket


@pytest.fixture
def as_user(server, lab):
    """Gives the settings with which a role reaches the server."""
    return lambda user: ReplaySettings(
        urls=(f"unix://{server}",), prefix=PREFIX, credentials=Credentials(folder=lab / user)
    )


@pytest.fixture
def client_of(as_user):
    """Gives a plain client of a role."""
    return lambda user: connect(as_user(user))


def segment():
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    return Segment(
        task="pick_and_place",
        scene="lab",
        instruction="Put the cube on the disc.",
        configuration=tasks.get("pick_and_place").space.sample(np.random.default_rng(0), region="A"),
        episode="one",
        first_step=0,
        outcome=Outcome.SUCCESS,
        source=Source.TWIN,
        policy_versions=(1, 1),
        backbone_id="b",
        observation=Observation(side=frames, wrist=frames, proprio=np.zeros((3, 25), np.float32)),
        action=np.zeros((2, 7), np.float32),
        reward=np.zeros(2, np.float32),
        human=np.zeros(2, np.bool_),
        embedding=np.zeros((3, 4), np.float32),
    )


def test_twin_and_robot_write_what_the_learner_reads_and_the_monitor_sees(as_user, tmp_path):
    for user, buffer in (("twin", "twin"), ("robot", "real")):
        with ReplayWriter(as_user(user), SCHEMA, actor=user, spool=tmp_path / user) as writer:
            writer.add(segment(), [buffer])
            writer.wait_for_allowance(buffer, stop=lambda: False)
            assert writer.flush(20) == 0
    learner = as_user("learner")
    reader = ReplayReader(learner, SCHEMA, ReaderSettings(capacity={"twin": 99, "real": 99}, gamma=0.9, n_step=1))
    with closing(reader):
        reader.allow("twin", 1_000)
        while reader.poll():
            pass
        assert dict(reader.counts()) == {"twin": 2, "real": 2}
        seen = read_cluster(ClusterSettings(replay=as_user("monitor")))
    assert seen.shards[0].problem == ""
    assert seen.shards[0].buffers["twin"].transitions == 2
    assert len(seen.readers) == 1
    assert delete_buffer(learner, "twin") == 1


@pytest.mark.parametrize(("user", "buffer"), [("twin", "real"), ("twin", "human"), ("robot", "twin")])
def test_nobody_writes_to_a_buffer_of_others(client_of, user, buffer):
    client = client_of(user)
    for key in Keys(PREFIX, buffer).slots + "1", Keys(PREFIX, buffer).allowance:
        with closing(client), pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command("SET", key, "1")


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    "command",
    [("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*"), ("SHUTDOWN",), ("ACL", "LIST"), ("SCRIPT", "FLUSH"),
     ("SCRIPT", "LOAD", "return 1"), ("FUNCTION", "LOAD", "x"), ("EVAL", "return 1", 0),
     ("CLIENT", "KILL", "TYPE", "normal"), ("SET", "elsewhere", "1"), ("DEBUG", "SLEEP", "0"), ("MONITOR",)],
)  # fmt: skip
def test_nobody_may_do_what_only_the_administrator_does(client_of, user, command):
    with closing(client_of(user)) as client, pytest.raises(redis.ResponseError, match=r"(?i)permission|not allowed"):
        client.execute_command(*command)


def test_the_monitor_only_looks(client_of):
    with closing(client_of("monitor")) as client:
        for command in (("SET", "{twinrl-lab:twin}:x", "1"), ("UNLINK", "twinrl-lab:schema")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)


def test_without_a_user_nothing_is_answered(server):
    with pytest.raises(InputError, match="refused the user or password"):
        list(read_episodes(ReplaySettings(urls=(f"unix://{server}",)), SCHEMA, ("twin",)))


def options_of(name):
    lines = (VALKEY / name).read_text().splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


def test_a_lab_is_encrypted_and_asks_for_certificates():
    lab = options_of("lab.conf")
    included = [line for line in (VALKEY / "lab.conf").read_text().splitlines() if line.startswith("include ")]
    assert included == ["include /etc/valkey/valkey.conf", "include /etc/valkey/users.acl"]
    assert (lab["port"], lab["tls-auth-clients"]) == ("0", "yes")
    assert lab["user"] == "default off"
    assert users_text("twinrl", {Role.ADMIN: ["0" * 64]}).splitlines()[1].startswith("user admin on #0000")
    assert options_of("valkey.conf")["tcp-keepalive"] == "15"


def test_the_dashboard_asks_for_metrics_that_are_there():
    page = (ROOT / "docs" / "metrics.md").read_text().partition("## Prometheus")[2]
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "twinrl.json").read_text())
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            asked |= set(re.findall(r"twinrl_(\w+)", target["expr"]))
    assert asked
    assert {name for name in asked if f"`{name}`" not in page} == set()
    source = yaml.safe_load((ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "twinrl.yml").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["datasources"][0]["uid"]}


def test_monitoring_follows_the_compose_specification():
    command = [sys.executable, str(ROOT / "scripts" / "check_compose.py"), str(ROOT / "deploy" / "monitoring.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_monitoring_reaches_the_page_that_the_stack_serves():
    stack = yaml.safe_load((ROOT / "deploy" / "monitoring.yml").read_text())["services"]
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert scraped[0]["static_configs"][0]["targets"] == ["127.0.0.1:7080"]
    assert stack["box"]["ports"] == ["127.0.0.1:3000:3000"]
    others = {name: service["network_mode"] for name, service in stack.items() if name != "box"}
    assert set(others.values()) == {"service:box"}
