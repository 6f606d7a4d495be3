"""These tests check publish(): a copy, refusals in the background, parts kept, an answer when it is on disk."""

import os

import numpy as np
import pytest
from service_process import until
from weight_samples import encode_part

from protos.errors import InputError, Unreachable
from protos.tensors import part_sha256
from services.weights import Bf16, WeightPublisher, WeightSubscriber
from services.weights.wire import MemoryPool

TIMEOUT_S = 60


def parts(value):
    return {
        "backbone": {"w": np.linspace(0, 1, 300_000, dtype=np.float32).reshape(300, 1000)},
        "head": {"w": np.full((500, 40), value, np.float32)},
    }


@pytest.fixture
def subscriber(server):
    subscriber = WeightSubscriber(server.address, name="test")
    yield subscriber
    subscriber.close()


def test_a_version_with_nan_is_refused_in_the_background_and_never_sent(server, publisher, subscriber):
    publisher.publish(parts(1.0), settings={})
    publisher.wait(TIMEOUT_S)
    assert publisher.publish(parts(np.nan), settings={}) == 2
    with pytest.raises(InputError, match="version 2 is refused: head/w holds NaN"):
        publisher.wait(TIMEOUT_S)
    assert publisher.stats()["refused"] == 1
    assert publisher.publish(parts(3.0), settings={}) == 3
    assert publisher.wait(TIMEOUT_S) == 3
    assert (subscriber.wait(3, TIMEOUT_S).parts["head"]["w"] == 3).all()
    assert publisher.stats()["accepted"] == 2


def test_each_version_is_the_policy_as_it_was(server, publisher, subscriber):
    """A copy may wait while the next one is made."""
    mine = parts(1.0)
    for value in (1.0, 2.0, 3.0):
        mine["head"]["w"][:] = value
        version = publisher.publish(mine, settings={"value": value})
        mine["head"]["w"][:] = 9.0
        weights = subscriber.wait(1, TIMEOUT_S)
        assert (weights.parts["head"]["w"] == weights.settings["value"]).all()
    assert (subscriber.wait(version, TIMEOUT_S).parts["head"]["w"] == 3).all()


def test_every_version_is_named_by_its_bytes(publisher, subscriber):
    mine = parts(1.0)
    publisher.publish(mine, settings={})
    first = subscriber.wait(1, TIMEOUT_S)
    publisher.publish(parts(2.0), settings={}, unchanged=("backbone",))
    second = subscriber.wait(2, TIMEOUT_S)
    assert first.sha256 == {
        "backbone": part_sha256(mine["backbone"]),
        "head": part_sha256(mine["head"], "bf16"),
    }
    assert second.sha256 == first.sha256 | {"head": part_sha256(parts(2.0)["head"], "bf16")}


def test_after_a_refusal_a_server_without_its_disk_gets_the_last_good_version(server, publisher, tmp_path):
    publisher.publish(parts(1.0), settings={})
    publisher.wait(TIMEOUT_S)
    publisher.publish(parts(np.inf), settings={})
    until(lambda: publisher.stats()["refused"] == 1, "the refusal")
    server.kill()
    for path in (tmp_path / "store").rglob("*-*.json"):
        path.unlink()
    server.start()
    newcomer = WeightSubscriber(server.address, name="newcomer")
    assert (newcomer.wait(1, TIMEOUT_S).parts["head"]["w"] == 1).all()
    newcomer.close()


def test_a_part_that_is_unchanged_is_not_looked_at(publisher, subscriber):
    whole = parts(1.0)
    publisher.publish(whole, settings={}, unchanged=("backbone",))  # there is none before it
    first = subscriber.wait(1, TIMEOUT_S)
    whole["backbone"]["w"][:] = np.nan
    publisher.publish(whole | parts(2.0) | {"backbone": whole["backbone"]}, settings={}, unchanged=("backbone",))
    publisher.publish({"head": parts(3.0)["head"]}, settings={}, unchanged=("backbone",))
    assert publisher.wait(TIMEOUT_S) == 3
    third = subscriber.wait(3, TIMEOUT_S)
    assert (third.parts["head"]["w"] == 3).all()
    assert third.parts["backbone"]["w"] is first.parts["backbone"]["w"]
    with pytest.raises(InputError, match=r"unchanged=\['critic'\]: the version before has .*'backbone', 'head'"):
        publisher.publish(parts(4.0), settings={}, unchanged=("critic",))


def test_an_unchanged_part_outlives_versions_that_were_never_sent(server, publisher, subscriber):
    server.kill()
    publisher.publish(parts(1.0), settings={})
    for value in range(2, 9):
        publisher.publish({"head": parts(float(value))["head"]}, settings={}, unchanged=("backbone",))
    server.start()
    weights = subscriber.wait(8, TIMEOUT_S)
    np.testing.assert_array_equal(weights.parts["backbone"]["w"], parts(8.0)["backbone"]["w"])
    assert (weights.parts["head"]["w"] == 8).all()


def test_many_versions_while_the_server_is_away_take_the_memory_of_two(server, monkeypatch):
    taken = {}
    take = MemoryPool.take

    def watched(self, name, size):
        array = take(self, name, size)
        taken.setdefault((id(self), name), set()).add(array.ctypes.data)
        return array

    monkeypatch.setattr(MemoryPool, "take", watched)
    publisher = WeightPublisher(server.address)
    publisher.publish(parts(0.0), settings={})
    publisher.wait(TIMEOUT_S)
    server.kill()
    for value in range(1, 30):
        publisher.publish(parts(float(value)), settings={})
    server.start()
    assert publisher.wait(TIMEOUT_S) == 30
    publisher.close()
    assert len(taken) == 4  # snapshots and wire form of two parts
    # one on its way, one that waits, one that is being filled, and the two spare ones of a pool
    assert max(map(len, taken.values())) <= 5


def test_a_version_in_use_stays_as_it_is_while_later_ones_come(publisher, subscriber):
    kept = []
    for version in range(1, 7):
        publisher.publish({"head": {"w": np.full((64, 64), version, np.float32)}}, settings={})
        kept.append(subscriber.wait(version, TIMEOUT_S).parts["head"]["w"])
    assert [float(w.min()) for w in kept] == [float(w.max()) for w in kept] == [1, 2, 3, 4, 5, 6]


def test_bits_from_an_accelerator_arrive_as_the_floats_they_are(publisher, subscriber):
    values = np.random.default_rng(0).normal(size=(64, 33)).astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    publisher.publish({"head": {"w": Bf16(bits)}}, settings={})
    received = subscriber.wait(1, TIMEOUT_S).parts["head"]["w"]
    np.testing.assert_array_equal(received.view(np.uint32), values.view(np.uint32) & 0xFFFF0000)


def head_file(server, value):
    table, _ = encode_part("head", parts(value)["head"], "bf16")
    return server.folder / "store" / "parts" / f"{table.sha256}.tmp"


@pytest.fixture
def announced(server, publisher, subscriber):
    """Announces version 2, whose writing hangs as on a stuck disk: the head's file is a pipe without a reader."""
    publisher.publish(parts(1.0), settings={})
    publisher.wait(TIMEOUT_S)
    os.mkfifo(head_file(server, 2.0))
    publisher.publish(parts(2.0), settings={})
    assert (subscriber.wait(2, TIMEOUT_S).parts["head"]["w"] == 2).all()
    with pytest.raises(Unreachable, match="version 2 was not taken"):
        publisher.wait(0.2)
    server.kill()
    head_file(server, 2.0).unlink()


@pytest.mark.usefixtures("announced")
def test_a_version_that_was_announced_and_not_written_is_sent_again(server, publisher, subscriber):
    held = subscriber.latest()
    server.start()
    assert publisher.wait(TIMEOUT_S) == 2
    until(lambda: subscriber.stats()["connected"] and subscriber.stats()["announced"] == 2, "it is told again")
    assert subscriber.latest() is held
    server.kill()
    server.start()
    newcomer = WeightSubscriber(server.address, name="newcomer")
    assert (newcomer.wait(2, TIMEOUT_S).parts["head"]["w"] == 2).all()
    newcomer.close()


@pytest.mark.usefixtures("announced")
def test_of_two_versions_with_the_number_of_a_lost_one_the_later_is_used(server, publisher, subscriber):
    publisher.close(flush_s=0)
    server.start()
    second = WeightPublisher(server.address)
    assert second.publish(parts(7.0), settings={}) == 2
    until(lambda: subscriber.latest().parts["head"]["w"][0, 0] == 7, "the second learner's version")
    second.close()


def test_a_full_disk_delays_the_answer_and_not_the_version(server, publisher, subscriber):
    head_file(server, 2.0).mkdir()  # cannot be opened for writing
    publisher.publish(parts(2.0), settings={})
    assert (subscriber.wait(1, TIMEOUT_S).parts["head"]["w"] == 2).all()
    until(lambda: publisher.stats()["failures"] >= 2, "the answer that it is not on disk")
    with pytest.raises(Unreachable, match="the store cannot be written"):
        publisher.wait(0.1)
    head_file(server, 2.0).rmdir()
    assert publisher.wait(TIMEOUT_S) == 1
    assert publisher.stats()["sent_bytes"] < 2 * 1_300_000  # the parts travelled once
    assert subscriber.stats()["swaps"] == 1
