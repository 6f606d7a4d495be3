"""These tests check a subscriber whose server sends damaged data, cuts the stream, or runs ahead."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from service_process import until
from weight_samples import encode_part

from protos import weights_pb2 as pb
from protos.weights_pb2_grpc import WeightsServicer, add_WeightsServicer_to_server
from services.weights import WeightSubscriber
from services.weights.wire import CHUNK_BYTES, split

TIMEOUT_S = 60
ELEMENTS = 3 * CHUNK_BYTES // 4 + 1000  # four chunks


def make(number, value):
    part, data = encode_part("head", {"w": np.full(ELEMENTS, value, np.float32)})
    return pb.WeightVersion(number=number, published_unix_s=number, settings_json="{}", parts=[part]), data


class ScriptedServer(WeightsServicer):
    """Announces what the test says and answers each Pull through `script(pull number, chunks)`."""

    def __init__(self, script):
        self.script, self.data, self.pulls = script, {}, []
        self.announced = threading.Condition()
        self.version = None
        self.closed = False

    def announce(self, version, data):
        with self.announced:
            self.version = version
            self.data[version.parts[0].sha256] = data
            self.announced.notify_all()

    def close(self):
        with self.announced:
            self.closed = True
            self.announced.notify_all()

    def Watch(self, request, context):  # noqa: N802 - the name in weights.proto
        told = None
        while True:
            with self.announced:
                self.announced.wait_for(lambda told=told: self.closed or self.version is not told)
                if self.closed:
                    return
                told = self.version
            yield told

    def Pull(self, request, context):  # noqa: N802 - the name in weights.proto
        assert request.offset % CHUNK_BYTES == 0
        self.pulls.append((request.sha256, request.offset))
        chunks = list(split(self.data[request.sha256]))[request.offset // CHUNK_BYTES :]
        yield from self.script(len(self.pulls), chunks)


@pytest.fixture
def serve():
    running = []

    def _serve(script):
        fake = ScriptedServer(script)
        server = grpc.server(ThreadPoolExecutor(8))
        add_WeightsServicer_to_server(fake, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        subscriber = WeightSubscriber(f"127.0.0.1:{port}", name="test")
        running.append((fake, server, subscriber))
        return fake, subscriber

    yield _serve
    for fake, server, subscriber in running:
        subscriber.close()
        fake.close()
        server.stop(0).wait(10)


def flip(chunk):
    chunk.data = chunk.data[:-1] + bytes([chunk.data[-1] ^ 0x40])
    return chunk


def test_a_corrupt_chunk_is_never_applied_and_only_it_is_pulled_again(serve):
    def third_chunk_bad_once(pull, chunks):
        for chunk in chunks:
            yield flip(chunk) if pull == 1 and chunk.offset == 2 * CHUNK_BYTES else chunk

    fake, subscriber = serve(third_chunk_bad_once)
    version, data = make(1, 0.25)
    fake.announce(version, data)
    weights = subscriber.wait(1, TIMEOUT_S)
    assert (weights.parts["head"]["w"] == 0.25).all()
    assert [offset for _, offset in fake.pulls] == [0, 2 * CHUNK_BYTES]
    assert subscriber.stats()["corrupt"] == 1
    assert subscriber.stats()["pulled_bytes"] == len(data)


def test_a_part_with_the_wrong_bytes_is_pulled_anew_and_the_old_version_stays(serve):
    go_on = threading.Event()

    def second_pull_has_other_bytes(pull, chunks):
        if pull == 2:
            chunks = split(bytes(len(chunks[-1].data) + 3 * CHUNK_BYTES))
        elif pull == 3:
            assert go_on.wait(TIMEOUT_S)
        yield from chunks

    fake, subscriber = serve(second_pull_has_other_bytes)
    fake.announce(*make(1, 1.0))
    subscriber.wait(1, TIMEOUT_S)
    fake.announce(*make(2, 2.0))
    until(lambda: subscriber.stats()["corrupt"] == 1, "the wrong bytes are noticed")
    assert (subscriber.latest().parts["head"]["w"] == 1).all()
    go_on.set()
    assert (subscriber.wait(2, TIMEOUT_S).parts["head"]["w"] == 2).all()
    assert [offset for _, offset in fake.pulls] == [0, 0, 0]


def test_a_cut_stream_is_taken_up_where_it_broke(serve):
    def cut_after_two_then_one(pull, chunks):
        yield from chunks[: 2 if pull == 1 else 1 if pull == 2 else None]

    fake, subscriber = serve(cut_after_two_then_one)
    version, data = make(1, 3.0)
    fake.announce(version, data)
    assert (subscriber.wait(1, TIMEOUT_S).parts["head"]["w"] == 3).all()
    assert [offset for _, offset in fake.pulls] == [0, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES]
    assert subscriber.stats()["resumed"] == 2
    assert subscriber.stats()["pulled_bytes"] == len(data)


def test_a_slow_subscriber_skips_to_the_newest(serve):
    go_on = threading.Event()

    def first_pull_is_slow(pull, chunks):
        yield chunks[0]
        if pull == 1:
            assert go_on.wait(TIMEOUT_S)
        yield from chunks[1:]

    fake, subscriber = serve(first_pull_is_slow)
    versions = [make(number, float(number)) for number in range(1, 6)]
    fake.announce(*versions[0])
    until(lambda: fake.pulls, "the first pull")
    for version, data in versions[1:]:
        fake.announce(version, data)
    until(lambda: subscriber.staleness()[0] == 5, "the newest announcement")
    assert subscriber.latest() is None
    go_on.set()
    weights = subscriber.wait(5, TIMEOUT_S)
    assert (weights.parts["head"]["w"] == 5).all()
    assert [sha256 for sha256, _ in fake.pulls] == [versions[0][0].parts[0].sha256, versions[4][0].parts[0].sha256]
    assert subscriber.stats()["skipped"] == 3
    assert subscriber.staleness()[0] == 0


def test_an_older_version_is_not_taken_but_a_new_run_is(serve):
    fake, subscriber = serve(lambda pull, chunks: chunks)
    fake.announce(*make(7, 7.0))
    subscriber.wait(7, TIMEOUT_S)
    fake.announce(*make(6, 6.0))  # published before version 7: a server that fell back
    again, data = make(2, 2.0)
    again.published_unix_s = 8.0  # published after it: a new run that counts from 1
    until(lambda: subscriber.stats()["announced"] == 6, "the older announcement")
    assert subscriber.latest().version == 7
    fake.announce(again, data)
    until(lambda: subscriber.latest().version == 2, "the new run")
    assert (subscriber.latest().parts["head"]["w"] == 2).all()
    assert len(fake.pulls) == 2


def test_rubbish_announcements_are_counted_and_followed_by_good_ones(serve):
    fake, subscriber = serve(lambda pull, chunks: chunks)
    rubbish, data = make(1, 1.0)
    rubbish.parts[0].tensors[0].shape[:] = [ELEMENTS * 2]
    fake.announce(rubbish, data)
    until(lambda: subscriber.stats()["corrupt"] >= 1, "the rubbish is noticed")
    fake.announce(*make(2, 2.0))
    assert subscriber.wait(2, TIMEOUT_S).version == 2
    assert len(fake.pulls) == 1
