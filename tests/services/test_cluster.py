"""Tests that a cluster is read through its services, though one is away; alarms; each sample is documented."""

import re
import socket
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cluster_samples import reader, reading, shard, weights, writer
from replay_samples import SCHEMA, make_segment, wait_until
from service_process import ServiceProcess, run_to_exit

from protos.errors import InputError
from protos.settings import save_settings
from protos.status import StatusFile
from services.monitor import (
    Addresses,
    ClusterSettings,
    Problem,
    WeightsReading,
    alarms,
    of_run,
    overlaid,
    process_samples,
    rates_between,
    read_cluster,
    samples,
)
from services.net import Credentials
from services.replay import (
    EmbeddedServer,
    LeaseReading,
    ReaderSettings,
    ReplayReader,
    ReplaySettings,
    ReplayWriter,
    shard_of,
)
from services.replay.lease import Holder
from services.telemetry import start_metrics_server

METRICS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
ACTORS = [next(f"twin-{i}" for i in range(99) if shard_of(f"twin-{i}", 2) == shard) for shard in (0, 1)]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    running = [EmbeddedServer(folder / str(shard)) for shard in (0, 1)]
    for server in running:
        server.start()
    yield running
    for server in running:
        server.stop()


def settings_of(servers):
    return ReplaySettings(urls=tuple(server.url for server in servers), spool_bytes=64 << 20)


def test_two_shards_their_writers_and_the_reader_are_seen_and_then_one_shard_is_away(servers, tmp_path):
    replay = settings_of(servers)
    cluster = ClusterSettings(replay=replay)
    learner = ReplayReader(replay, SCHEMA, ReaderSettings(capacity={"twin": 99}, gamma=0.9, n_step=1), name="learner")
    learner.start()
    writers = [ReplayWriter(replay, SCHEMA, actor=name, spool=tmp_path / name) for name in ACTORS]
    for each in writers:
        each.add(make_segment(np.random.default_rng(0)), ["twin"])
        assert each.flush(20) == 0

    def all_there():
        found = read_cluster(cluster)
        return len(found.writers) == 2 and [one.name for one in found.readers] == ["learner"]

    wait_until(all_there)
    found = read_cluster(cluster)
    assert [stats.problem for stats in found.shards] == ["", ""]
    assert [stats.buffers["twin"].transitions for stats in found.shards] == [4, 4]
    assert {each.name: each.shard for each in found.writers} == {ACTORS[0]: 0, ACTORS[1]: 1}
    assert found.weights is None
    documented(samples(found))

    servers[1].stop()
    found = read_cluster(cluster)
    assert found.shards[0].problem == ""
    assert "valkey.sock did not answer" in found.shards[1].problem
    assert [each.name for each in found.writers] == [ACTORS[0]]
    assert [alarm.severity for alarm in alarms(found, rates_between(found, found))][:1] == ["error"]
    servers[1].start()
    for each in (*writers, learner):
        each.close()


def test_services_that_are_away_are_lines_of_the_reading():
    found = read_cluster(ClusterSettings(weights="127.0.0.1:1", guide="127.0.0.1:1"))
    assert isinstance(found.weights, Problem)
    assert "127.0.0.1:1" in found.weights.text
    assert isinstance(found.targets, Problem)
    assert [alarm.severity for alarm in alarms(found, rates_between(found, found))] == ["error", "error"]


def test_the_weights_service_is_read(tmp_path):
    with ServiceProcess("services.weights", tmp_path, "--store", str(tmp_path / "weights")) as service:
        found = read_cluster(ClusterSettings(weights=service.address)).weights
    assert found == WeightsReading(version=0, age_s=0.0, watchers=())


def test_rates_are_changes_over_the_time_between_words():
    earlier = reading(peers=(writer("a", age_s=0.5, dropped=2, transitions=100), writer("b", pid=1)))
    later = reading(
        t=1_010.0,
        shards=(shard(0, buffers={"twin": shard().buffers["demo"]}), shard(1)),
        peers=(writer("a", age_s=0.0, dropped=12, transitions=310), writer("b", pid=2), writer("c")),
    )
    rates = rates_between(earlier, later)
    assert rates.transitions[1, "twin"] == 0
    assert rates.transitions[0, "twin"] == -19_000
    a, b, c = later.writers
    assert rates.of_peer(a, "transitions") == pytest.approx(210 / 10.5)
    assert rates.of_peer(b, "transitions") is None  # another process: it counts from zero again
    assert rates.of_peer(c, "transitions") is None
    assert rates_between(later, later).peers == {}


def test_when_all_is_well_nothing_is_said():
    assert alarms(reading(), rates_between(reading(), reading(t=1_010.0))) == []


@pytest.mark.parametrize(
    ("changes", "severity", "words"),
    [
        ({"shards": (shard(problem="did not answer", version=""),)}, "error", "shard 0: did not answer"),
        ({"shards": (shard(memory_bytes=5.7e9),)}, "warning", "95% of its maxmemory"),
        ({"shards": (shard(logged=False),)}, "warning", "a restart loses its data"),
        ({"weights": Problem(text="weights service: gone")}, "error", "weights service: gone"),
        ({"weights": weights(812, 790, using_s=73.0)}, "warning", "policy-1 has used version 790 for 73 s, 22 behind"),
        ({"peers": (writer("a", spool_bytes=9e8), reader())}, "warning", "a: the spool is 90% full, full in about"),
        ({"peers": (writer("a", dropped=5), reader())}, "error", "a: the spool is full, segments are lost"),
        ({"peers": (writer("a", oldest_unsent_s=34), reader())}, "warning", "has waited 34 s for its shard"),
        ({"peers": (writer("a", age_s=9.0), reader())}, "warning", "a: lost, last heard 9 s ago from node"),
        ({"peers": (writer("a"),)}, "warning", "nobody reads the replay"),
        ({"peers": (reader(lag_transitions=14_000),)}, "warning", "twin_rl: 14,000 transitions behind"),
        ({"peers": (reader(shards_away=1),)}, "warning", "twin_rl: reads 1 of 2 shards"),
    ],
)
def test_what_is_wrong_is_said_in_words(changes, severity, words):
    now = reading(t=1_010.0, **changes)
    found = alarms(now, rates_between(reading(peers=(writer("a", spool_bytes=7e6),)), now))
    assert (found[0].severity, words in found[0].text) == (severity, True), found


def test_one_version_behind_is_normal_for_a_moment_only():
    for using_s, expected in ((2.0, 0), (30.0, 1)):
        now = reading(weights=weights(811, using_s=using_s))
        assert len(alarms(now, rates_between(now, now))) == expected


def test_a_reader_that_speaks_on_every_shard_is_one_reader_with_its_latest_words():
    peers = (reader(shard=0, age_s=3.0, lag_transitions=500.0), reader(shard=1, age_s=0.2, lag_transitions=7.0))
    (one,) = reading(peers=peers).readers
    assert one.stats["lag_transitions"] == 7.0


def documented(found):
    """Asserts that docs/metrics.md has every sample with exactly its labels; returns the names."""
    labels = {name: said for name, (said, _) in rows_of_the_page().items()}
    for sample in found:
        assert labels.get(sample.name) == set(sample.labels), sample.name
    return {sample.name for sample in found}


def page_of(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as reply:
        return reply.read().decode()


def rows_of_the_page():
    """Reads docs/metrics.md: name -> labels, meaning."""
    rows = [line.split("|") for line in METRICS_PAGE.read_text().partition("## Prometheus")[2].splitlines()]
    return {
        name: ({label.strip() for label in row[2].split(",") if label.strip()}, row[3])
        for row in rows
        if len(row) > 3
        for name in re.findall(r"`(\w+)`", row[1])
    }


def test_every_metric_is_documented_and_every_documented_one_is_told(tmp_path):
    StatusFile(tmp_path / "logs" / "learner.status.json").write(doing="RL", waiting_for="actors", updates=41.0)
    counts = {"episodes": 1, "overwritten": 0, "missed": 0, "corrupt": 0, "failures": 0, "memory_bytes": 5}
    left = {"certificate_left_s": 9e5}
    lease = LeaseReading(number=3, holder=Holder.here("twin_rl"), left_s=9.0)
    peers = (writer("twin-0", **left), reader(**counts, **left))
    full = replace(reading(peers=peers, lease=lease), certificates={"weights": 9e5})
    told = documented(samples(full) + process_samples(tmp_path))
    assert told == {name for name, (_, meaning) in rows_of_the_page().items() if "on the page of" not in meaning}


def test_the_page_of_the_weights_service_is_documented(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        page_address = f"127.0.0.1:{probe.getsockname()[1]}"
    with ServiceProcess("services.weights", tmp_path, "--store", str(tmp_path / "w"), "--metrics", page_address):
        page = page_of(page_address)
    told = set(re.findall(r"^twinrl_(\w+) ", page, re.MULTILINE))
    assert told
    assert told <= set(rows_of_the_page())


def test_a_process_that_waits_is_told_with_its_numbers(tmp_path):
    StatusFile(tmp_path / "logs" / "learner.status.json").write(doing="RL", waiting_for="actors", updates=41.0)
    (tmp_path / "logs" / "torn.status.json").write_text("{")
    values = {(one.name, one.labels.get("name")): one.value for one in process_samples(tmp_path)}
    assert values["process_waiting", None] == 1
    assert values["process_reading", "updates"] == 41.0


def test_the_page_of_a_cluster_answers_while_everything_is_away():
    cluster = ClusterSettings(replay=ReplaySettings(urls=("redis://127.0.0.1:1",)), weights="127.0.0.1:1")
    server = start_metrics_server("127.0.0.1:0", lambda: samples(read_cluster(cluster)))
    page = page_of(server.address)
    server.close()
    assert 'twinrl_replay_up{shard="0"} 0.0' in page
    assert "twinrl_weights_up 0.0" in page


def test_a_password_comes_from_a_file_and_not_from_the_command_line(tmp_path):
    (tmp_path / "password").touch(mode=0o600)
    (tmp_path / "password").write_text("p@ss/word\n")
    given = Addresses(replay=("rediss://monitor@10.0.0.3:6379",), password_file=tmp_path / "password")
    assert given.settings().replay.login(0) == ("monitor", "p@ss/word")
    assert "p@ss" not in repr(given.settings())
    with pytest.raises(InputError, match="has a password of its own"):
        Addresses(replay=("redis://:x@h:1",), password_file=tmp_path / "password").settings()
    with pytest.raises(InputError, match="cannot be read"):
        Addresses(replay=("redis://h:1",), password_file=tmp_path / "none").settings()


def test_a_run_names_its_services_in_its_settings_files(tmp_path):
    assert of_run(tmp_path) == ClusterSettings()
    replay = ReplaySettings(urls=("unix:///tmp/replay.sock",), prefix="twinrl-demo")
    whole = ClusterSettings(replay=replay, weights="127.0.0.1:7070", credentials=Credentials(token=Path("token")))
    save_settings(whole, tmp_path / "settings" / "twin_rl.json")
    (tmp_path / "settings" / "torn.json").write_text('{"replay": ')
    assert of_run(tmp_path) == whole
    assert overlaid(whole, ClusterSettings()) == whole
    assert overlaid(whole, ClusterSettings(guide="127.0.0.1:7071")).guide == "127.0.0.1:7071"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--replay", "http://h"), "begin with one of"),
        (("--weights", "127.0.0.1:1", "--listen", "0.0.0.0:0"), "127.0.0.1 only"),
    ],
)
def test_a_page_with_wrong_addresses_is_refused_in_one_line(arguments, words):
    code, said = run_to_exit("services.monitor", *arguments)
    assert (code, said.count("\n")) == (2, 1)
    assert words in said
