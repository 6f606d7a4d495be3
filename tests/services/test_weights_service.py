"""These tests send weights from one process to another, through restarts and refusals."""

import hashlib
import subprocess
import sys

import grpc
import numpy as np
import pytest
from service_process import ServiceProcess, run_to_exit, until

from protos import weights_pb2 as pb
from protos.errors import InputError, Unreachable
from protos.weights_pb2_grpc import WeightsStub
from services.net import Credentials
from services.weights import Limits, WeightPublisher, WeightSubscriber
from services.weights.wire import split

TIMEOUT_S = 60
FOLLOWER = """
import sys
from services.net.credentials import Credentials
from services.weights import WeightSubscriber
subscriber, version = WeightSubscriber(sys.argv[1], name="follower"), 0
while True:
    weights = subscriber.wait(version + 1, 60)
    version = weights.version
    print(version, weights.settings["lr"], float(weights.parts["head"]["w"].sum()), flush=True)
"""


def parts(value, size=4):
    return {
        "backbone": {"w": np.linspace(0, 1, 300_000, dtype=np.float32).reshape(300, 1000)},
        "head": {"w": np.full((size, 1), value, np.float32)},
    }


@pytest.fixture
def publisher(server):
    publisher = WeightPublisher(server.address)
    yield publisher
    publisher.close()


@pytest.fixture
def subscriber(server):
    subscriber = WeightSubscriber(server.address, name="test")
    yield subscriber
    subscriber.close()


def test_another_process_follows(server, publisher):
    command = [sys.executable, "-c", FOLLOWER, server.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        try:
            for version, value in ((1, 0.5), (2, 1.5), (3, 8.0)):
                assert publisher.publish(parts(value), settings={"lr": value}) == version
                assert follower.stdout.readline().split() == [str(version), str(value), str(4 * value)]
        finally:
            follower.kill()


def test_publishing_copies(publisher, subscriber):
    mine = parts(1.0)
    version = publisher.publish(mine, settings={})
    mine["head"]["w"][:] = 9
    weights = subscriber.wait(version, TIMEOUT_S)
    assert (weights.parts["head"]["w"] == 1).all()
    np.testing.assert_array_equal(weights.parts["backbone"]["w"], mine["backbone"]["w"])  # exact, not bfloat16


def test_kill_and_restart(server, publisher, subscriber):
    """Everyone keeps what they have, the server finds its version on disk, numbering goes on."""
    publisher.publish(parts(1.0), settings={"n": 1})
    assert publisher.wait(TIMEOUT_S) == 1
    held = subscriber.wait(1, TIMEOUT_S)
    server.kill()
    until(lambda: not subscriber.stats()["connected"], "the subscriber notices")
    assert subscriber.latest() is held
    server.start()
    newcomer = WeightSubscriber(server.address, name="newcomer")
    assert newcomer.wait(1, TIMEOUT_S).settings == {"n": 1}
    assert publisher.publish(parts(2.0), settings={"n": 2}) == 2
    for follower in (subscriber, newcomer):
        assert (follower.wait(2, TIMEOUT_S).parts["head"]["w"] == 2).all()
    newcomer.close()
    assert server.stop() == 0


def test_publishing_while_the_server_is_away_neither_blocks_nor_is_lost(server, publisher, subscriber):
    publisher.publish(parts(1.0), settings={})
    publisher.wait(TIMEOUT_S)
    server.kill()
    assert [publisher.publish(parts(float(n)), settings={}) for n in (2, 3, 4)] == [2, 3, 4]
    with pytest.raises(Unreachable, match=r"version 4 was not taken within 0\.2 s"):
        publisher.wait(0.2)
    server.start()
    assert publisher.wait(TIMEOUT_S) == 4
    assert subscriber.wait(4, TIMEOUT_S).version == 4
    assert publisher.stats()["accepted"] == 2  # versions 2 and 3 were replaced before they could be sent


def test_closing_sends_the_last_version_first(server, publisher, subscriber):
    version = publisher.publish(parts(4.0), settings={})
    publisher.close()
    assert subscriber.wait(version, TIMEOUT_S).version == version


def test_a_server_that_lost_its_disk_gets_the_newest_version_again(server, publisher, tmp_path):
    publisher.publish(parts(1.0), settings={})
    publisher.publish(parts(2.0), settings={})
    publisher.wait(TIMEOUT_S)
    server.kill()
    for path in (tmp_path / "store").rglob("*-*.json"):
        path.unlink()
    server.start()
    newcomer = WeightSubscriber(server.address, name="newcomer")
    assert (newcomer.wait(2, TIMEOUT_S).parts["head"]["w"] == 2).all()
    newcomer.close()


def test_a_damaged_store_is_set_aside_and_numbers_go_on(server, publisher, tmp_path):
    for value in (1.0, 2.0):
        publisher.publish(parts(value, size=5), settings={})
        publisher.wait(TIMEOUT_S)
    publisher.close()
    server.kill()
    newest = max((tmp_path / "store" / "parts").iterdir(), key=lambda path: path.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    server.start()
    reader = WeightSubscriber(server.address, name="reader")
    assert reader.wait(1, TIMEOUT_S).version == 1
    reader.close()
    assert "is damaged" in server.log.read_text()
    second = WeightPublisher(server.address)
    assert second.publish(parts(3.0), settings={}) == 3
    second.close()


def test_a_second_publisher_counts_above_the_first(server, publisher):
    publisher.publish(parts(1.0), settings={})
    publisher.wait(TIMEOUT_S)
    second = WeightPublisher(server.address)
    assert second.publish(parts(2.0), settings={}) == 2
    assert second.wait(TIMEOUT_S) == 2
    until(lambda: publisher.stats()["version"] == 2, "the first looks at the server")
    assert publisher.publish(parts(3.0), settings={}) == 3
    assert publisher.wait(TIMEOUT_S) == 3
    second.close()


def test_of_two_publishers_with_one_number_the_later_is_told(server, publisher):
    publisher.publish(parts(1.0), settings={})
    publisher.wait(TIMEOUT_S)
    server.kill()
    publisher.publish(parts(2.0), settings={})
    second_store = server.folder / "store" / "versions"
    table = next(second_store.glob("*.json"))
    digest = hashlib.sha256(changed := table.read_bytes().replace(b'"number": "1"', b'"number": "5"')).hexdigest()[:16]
    (second_store / f"0000000005-{digest}.json").write_bytes(changed)  # what another learner left there
    server.start()
    with pytest.raises(InputError, match="version 2 comes after 5 of another publisher"):
        publisher.wait(TIMEOUT_S)
    until(lambda: publisher.stats()["version"] == 5, "the count goes on above")
    assert publisher.publish(parts(3.0), settings={}) == 6
    assert publisher.wait(TIMEOUT_S) == 6


def test_the_frozen_part_travels_once(publisher, subscriber):
    for value in (1.0, 2.0, 3.0):
        version = publisher.publish(parts(value), settings={})
        publisher.wait(TIMEOUT_S)
        subscriber.wait(version, TIMEOUT_S)
    frozen, head = 300_000 * 4, 4 * 2
    assert publisher.stats()["sent_bytes"] == frozen + 3 * head
    assert subscriber.stats()["pulled_bytes"] == frozen + 3 * head
    assert subscriber.staleness()[0] == 0


def test_equal_bytes_under_other_names_stay_apart(publisher, subscriber):
    same = np.zeros(16, np.float32)
    publisher.publish({"a": {"w": same}, "b": {"v": same.view(np.int32)}}, settings={})
    first = subscriber.wait(1, TIMEOUT_S).parts
    publisher.publish({"a": {"renamed": same}, "b": {"v": same.reshape(4, 4)}}, settings={})
    second = subscriber.wait(2, TIMEOUT_S).parts
    assert [sorted(part) for part in (first["a"], first["b"], second["a"], second["b"])] == [
        ["w"],
        ["v"],
        ["renamed"],
        ["v"],
    ]
    assert first["b"]["v"].dtype == np.int32
    assert second["b"]["v"].shape == (4, 4)


def test_an_oversized_part_is_refused_and_the_server_lives_on(tmp_path):
    limits = ("--store", str(tmp_path / "store"), "--max-part-bytes", "1300000")
    with ServiceProcess("services.weights", tmp_path, *limits) as server:
        publisher = WeightPublisher(server.address, wire_dtype="f32")
        publisher.publish(parts(1.0, size=400_000), settings={})
        with pytest.raises(InputError, match="max_part_bytes=1300000"):
            publisher.wait(TIMEOUT_S)
        publisher.publish(parts(2.0), settings={})
        assert publisher.wait(TIMEOUT_S) == 2
        cautious = WeightSubscriber(server.address, name="cautious", limits=Limits(max_part_bytes=1000))
        until(lambda: cautious.stats()["refused"] == 1, "the subscriber refuses")
        assert cautious.latest() is None
        cautious.close()
        publisher.close()


def published(stub, version, chunks):
    yield_all = [pb.PublishRequest(version=version)]
    yield_all += [pb.PublishRequest(part_chunk={"sha256": version.parts[0].sha256, "chunk": chunk}) for chunk in chunks]
    return stub.Publish(iter(yield_all), timeout=TIMEOUT_S)


@pytest.mark.parametrize("damage", ["bit", "missing", "table"])
def test_the_server_takes_no_damaged_version(server, damage):
    with grpc.insecure_channel(server.address) as channel:
        stub = WeightsStub(channel)
        data = bytes(100)
        part = pb.WeightPart(name="head", sha256="ab" * 32, size=100)
        chunks = list(split(data))
        if damage == "bit":
            chunks[0].crc32 ^= 1
        elif damage == "missing":
            chunks = []
        else:
            part.tensors.add(name="w", dtype="float32", shape=[1000])
        with pytest.raises(grpc.RpcError) as refused:
            published(stub, pb.WeightVersion(number=1, settings_json="{}", parts=[part]), chunks)
        assert refused.value.code() is grpc.StatusCode.DATA_LOSS
        assert not stub.Status(pb.WeightsStatusRequest(), timeout=TIMEOUT_S).HasField("newest")


def test_the_server_lists_who_watches(server, subscriber):
    with grpc.insecure_channel(server.address) as channel:
        stub = WeightsStub(channel)

        def names():
            return [watcher.name for watcher in stub.Status(pb.WeightsStatusRequest(), timeout=TIMEOUT_S).watchers]

        until(lambda: names() == ["test"], "the subscriber is listed")
        subscriber.close()
        until(lambda: names() == [], "the subscriber is gone")


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.7:7070"])
def test_other_hosts_need_a_token(tmp_path, listen):
    status, message = run_to_exit("services.weights", "--listen", listen, "--store", str(tmp_path / "store"))
    assert status == 2
    assert message.count("\n") == 1
    assert "--credentials.token" in message
    assert "TLS" in message


def test_the_token_is_checked(tmp_path):
    for name in ("token", "wrong"):
        (tmp_path / name).touch(mode=0o600)
    (tmp_path / "token").write_text("correct horse battery\n")
    settings = ("--store", str(tmp_path / "store"), "--credentials.token", str(tmp_path / "token"))
    with ServiceProcess("services.weights", tmp_path, *settings) as server:
        (tmp_path / "wrong").write_text("wrong horse battery\n")
        for credentials in (Credentials(), Credentials(token=tmp_path / "wrong")):
            with pytest.raises(InputError, match="token is missing or wrong"):
                WeightPublisher(server.address, credentials=credentials)
        stranger = WeightSubscriber(server.address, name="stranger", credentials=Credentials(token=tmp_path / "wrong"))
        with pytest.raises(Unreachable, match="stranger holds none"):
            stranger.wait(1, 0.5)
        until(lambda: stranger.stats()["failures"] > 0, "the stranger is refused")
        with pytest.raises(Unreachable, match="token is missing or wrong"):
            stranger.wait(1, 0.01)
        stranger.close()
        ours = Credentials(token=tmp_path / "token")
        publisher = WeightPublisher(server.address, credentials=ours)
        publisher.publish(parts(1.0), settings={})
        friend = WeightSubscriber(server.address, name="friend", credentials=ours)
        assert friend.wait(1, TIMEOUT_S).version == 1
        friend.close()
        publisher.close()


def test_a_publisher_without_a_server_says_so_in_one_line():
    with pytest.raises(Unreachable, match=r"weights service at 127\.0\.0\.1:1: .*deadline 0\.5 s") as error:
        WeightPublisher("127.0.0.1:1", connect_deadline_s=0.5)
    assert "\n" not in str(error.value)


def test_a_taken_port_and_a_bad_address_are_refused_in_one_line(server, tmp_path):
    for listen in (server.address, "nonsense"):
        status, message = run_to_exit("services.weights", "--listen", listen, "--store", str(tmp_path / "other"))
        assert status == 2
        assert listen in message
