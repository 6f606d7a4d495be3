"""These tests check watchers: reports, limits, staleness, schemas, the Prometheus page."""

import math
import urllib.request

import grpc
import numpy as np
import pytest
from service_process import ServiceProcess, until

from protos import weights_pb2 as pb
from protos.weights_pb2_grpc import WeightsStub
from services.weights import WeightPublisher, WeightSubscriber

TIMEOUT_S = 60


@pytest.fixture
def start(tmp_path):
    running = []

    def _start(*flags):
        server = ServiceProcess("services.weights", tmp_path, "--store", str(tmp_path / "store"), *flags).start()
        running.append(server)
        return server

    yield _start
    for server in running:
        server.kill()


@pytest.fixture
def follow():
    subscribers = []

    def _follow(server, name="test", **settings):
        subscribers.append(WeightSubscriber(server.address, name=name, **settings))
        return subscribers[-1]

    yield _follow
    for subscriber in subscribers:
        subscriber.close()


def head(value):
    return {"head": {"w": np.full((4, 4), value, np.float32)}}


def watchers(server):
    with grpc.insecure_channel(server.address) as channel:
        return WeightsStub(channel).Status(pb.WeightsStatusRequest(), timeout=TIMEOUT_S).watchers


def test_watchers_say_what_they_use_and_namesakes_are_listed_apart(start, follow):
    server = start()
    publisher = WeightPublisher(server.address)
    twins = [follow(server, "twin") for _ in range(2)]
    until(lambda: len(watchers(server)) == 2, "both are listed")
    assert all(watcher.using == 0 and watcher.reported_unix_s == 0 for watcher in watchers(server))
    publisher.publish(head(1.0), settings={})
    for twin in twins:
        twin.wait(1, TIMEOUT_S)
    until(lambda: [watcher.using for watcher in watchers(server)] == [1, 1], "both have reported")
    listed = watchers(server)
    assert [watcher.name for watcher in listed] == ["twin", "twin"]
    assert len({watcher.id for watcher in listed}) == 2
    assert all(watcher.peer.startswith("ipv4:127.0.0.1:") for watcher in listed)
    assert all(watcher.using_unix_s <= watcher.reported_unix_s for watcher in listed)
    publisher.close()


def test_a_watcher_that_stays_behind_is_seen(start, follow):
    server = start("--metrics", "127.0.0.1:0")
    publisher = WeightPublisher(server.address)
    follow(server, "good")
    held_back = follow(server, "other schema", schema_hash="aaa")
    publisher.publish(head(1.0), settings={}, schema_hash="aaa")
    held_back.wait(1, TIMEOUT_S)
    for value in (2.0, 3.0):
        publisher.publish(head(value), settings={}, schema_hash="bbb")
        publisher.wait(TIMEOUT_S)
    until(lambda: {watcher.name: watcher.using for watcher in watchers(server)}.get("good") == 3, "the good one swaps")
    until(lambda: held_back.stats()["refused"] >= 1 and held_back.staleness()[0] == 2, "the other refuses")
    assert held_back.latest().version == 1
    page = next(line for line in server.log.read_text().splitlines() if "metrics at" in line).split()[-1]

    def gauge(name):
        lines = urllib.request.urlopen(page, timeout=TIMEOUT_S).read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"twinrl_weights_{name} ")).split()[1])

    until(lambda: gauge("slowest_watcher_behind") == 2, "the page shows who is behind")
    assert gauge("version") == 3
    assert gauge("watchers") == 2
    assert gauge("store_bytes") > 0
    assert gauge("served_bytes_total") > 0
    publisher.close()


def test_versions_of_another_schema_are_refused_in_one_line(start, follow, caplog):
    server = start()
    publisher = WeightPublisher(server.address)
    publisher.publish(head(1.0), settings={}, schema_hash="theirs")
    publisher.wait(TIMEOUT_S)
    mine, careless = follow(server, "mine", schema_hash="ours"), follow(server, "careless")
    assert careless.wait(1, TIMEOUT_S).version == 1
    until(lambda: mine.stats()["refused"] == 1, "the refusal")
    assert "version 1 not pulled: it was published for schema 'theirs', this process has 'ours'" in caplog.text
    assert mine.latest() is None
    publisher.publish(head(2.0), settings={}, schema_hash="ours")
    assert mine.wait(2, TIMEOUT_S).version == 2
    publisher.publish(head(3.0), settings={})  # a publisher that does not say is believed
    assert mine.wait(3, TIMEOUT_S).version == 3
    publisher.close()


def test_too_many_watchers_are_refused_and_the_next_gets_a_free_place(start, follow):
    server = start("--max-watchers", "2")
    first, _ = follow(server, "first"), follow(server, "second")
    until(lambda: len(watchers(server)) == 2, "two watch")
    third = follow(server, "third")
    until(lambda: third.stats()["failures"] > 0, "the third is refused")
    with pytest.raises(OSError, match="2 watchers already; the limit is --max-watchers 2"):
        third.wait(1, 0.01)
    first.close()
    until(lambda: third.stats()["connected"], "the third gets the free place")


def test_silence_counts_from_the_break_and_ends_with_the_stream(start, follow):
    server = start()
    subscriber = follow(server)
    until(lambda: subscriber.silent_s() == 0, "connected")
    server.kill()
    until(lambda: subscriber.silent_s() > 0.3, "the stream broke")
    before = subscriber.silent_s()
    until(lambda: subscriber.silent_s() > before, "silence lasts")
    assert subscriber.staleness() == (0, math.inf)
    server.start()
    until(lambda: subscriber.silent_s() == 0, "connected again")
    assert subscriber.stats()["silent_s"] == 0


def test_silence_counts_from_the_start_without_a_server(follow):
    class Nowhere:
        address = "127.0.0.1:1"

    subscriber = follow(Nowhere)
    until(lambda: subscriber.silent_s() > 0.2, "nobody there")


def test_the_time_from_publishing_to_swapping_is_measured(start, follow):
    server = start()
    publisher = WeightPublisher(server.address)
    publisher.publish(head(1.0), settings={})
    publisher.wait(TIMEOUT_S)
    subscriber = follow(server)
    subscriber.wait(1, TIMEOUT_S)
    assert math.isnan(subscriber.stats()["swap_s_p95"])  # it had waited for its subscriber
    publisher.publish(head(2.0), settings={})
    subscriber.wait(2, TIMEOUT_S)
    assert 0 < subscriber.stats()["swap_s_p95"] < TIMEOUT_S
    publisher.close()
