"""Tests reading slots in place: real servers, servers that misbehave, and arbitrary bytes."""

import socket
import ssl
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_peers import Line, Listener, Script, answer_handshake

from protos.errors import InputError, Unreachable
from services.net import Credentials
from services.net.certificates import make_certificates
from services.replay import EmbeddedServer, Keys, ReplaySettings, connect
from services.replay.read.wire import WINDOW_BYTES, WINDOW_REQUESTS, Answers, Request, SlotReader

KEYS = Keys("twinrl", "twin")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("wire")) as server:
        yield server


@pytest.fixture
def client(server):
    client = connect(ReplaySettings(urls=(server.url,)))
    client.execute_command("FLUSHALL")
    yield client
    client.close()


def reader_of(url: str, **options) -> SlotReader:
    return SlotReader(ReplaySettings(urls=(url,), **options), 0, KEYS)


def put(client, slot: int, size: int) -> np.ndarray:
    data = np.random.default_rng(slot).integers(0, 256, size, np.uint8)
    client.execute_command("SET", f"{KEYS.slots}{slot}", data.tobytes())
    return data


def ask(slot: int, start: int, stop: int) -> tuple[Request, np.ndarray]:
    out = np.full(stop - start, 77, np.uint8)
    return Request(slot, start, stop, [out.data]), out


def assert_reads(reader: SlotReader, slot: int, data: np.ndarray) -> None:
    request, out = ask(slot, 0, len(data))
    assert reader.read([request]) == [True]
    np.testing.assert_array_equal(out, data)


def test_reads_parts_of_slots_into_the_arrays_given(server, client):
    data = {slot: put(client, slot, 100_000) for slot in (1, 2)}
    parts = [np.zeros(size, np.uint8) for size in (1, 20_000, 3)]
    spread = Request(2, 50, 50 + 20_004, [part.data for part in parts])
    first, out = ask(1, 99_000, 100_000)
    whole, all_of_it = ask(2, 0, 100_000)
    done: list[tuple[int, bool]] = []
    assert reader_of(server.url).read([first, spread, whole], lambda i, ok: done.append((i, ok))) == [True] * 3
    assert done == [(0, True), (1, True), (2, True)]
    np.testing.assert_array_equal(out, data[1][99_000:])
    np.testing.assert_array_equal(np.concatenate(parts), data[2][50:20_054])
    np.testing.assert_array_equal(all_of_it, data[2])


def test_a_slot_that_is_empty_or_too_short_is_told_and_leaves_the_array_alone(server, client):
    data = put(client, 1, 5_000)
    wanted = [(9, 0, 10), (1, 4_000, 6_000), (1, 7_000, 8_000), (1, 0, 5_000)]
    requests, outs = zip(*[ask(*each) for each in wanted], strict=True)
    assert reader_of(server.url).read(requests) == [False, False, False, True]
    assert all((out == 77).all() for out in outs[:3])
    np.testing.assert_array_equal(outs[3], data)


@pytest.mark.parametrize(
    ("count", "size"), [(3 * WINDOW_REQUESTS, 700), (12, WINDOW_BYTES // 3), (2, WINDOW_BYTES + 5)], ids=str
)
def test_more_than_may_be_outstanding_at_once(server, client, count, size):
    data = put(client, 1, size + count)
    requests, outs = zip(*[ask(1, k, k + size) for k in range(count)], strict=True)
    with Line(server.socket) as line:
        for url in (server.url, line.url):
            assert all(reader_of(url).read(requests))
            for k, out in enumerate(outs):
                np.testing.assert_array_equal(out, data[k : k + size])
                out[:] = 0


def test_user_password_and_database_are_those_of_the_url(server, client):
    client.execute_command("ACL", "SETUSER", "eve", "on", ">p@ss word", "~*", "+getrange", "+select")
    data = put(client, 1, 100)
    address = server.url.removeprefix("unix://")
    assert_reads(reader_of(f"unix://eve:p%40ss%20word@{address}?db=0"), 1, data)
    assert reader_of(f"unix://eve:p%40ss%20word@{address}?db=3").read([ask(1, 0, 100)[0]]) == [False]
    with pytest.raises(InputError, match="refused the user or password") as caught:
        reader_of(f"unix://eve:secret@{address}").read([ask(1, 0, 1)[0]])
    assert "secret" not in str(caught.value)
    client.execute_command("ACL", "SETUSER", "eve", "-getrange")
    with pytest.raises(InputError, match="the user eve may not do this"):
        reader_of(f"unix://eve:p%40ss%20word@{address}").read([ask(1, 0, 1)[0]])


def test_tls_with_certificates_of_both_sides(server, client, tmp_path):
    data = put(client, 1, 300_000)
    made = make_certificates(tmp_path / "lab", hosts=["127.0.0.1"])
    ours, theirs = made["server"], made["learner"]
    strangers = make_certificates(tmp_path / "elsewhere", hosts=["127.0.0.1"])["learner"]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours.authority)
    context.load_cert_chain(ours.certificate, ours.key)
    context.verify_mode = ssl.CERT_REQUIRED
    known = Credentials(authority=theirs.authority, certificate=theirs.certificate, key=theirs.key)
    with Line(server.socket, tls=context) as line:
        assert_reads(reader_of(line.url, credentials=known), 1, data)
        password = theirs.password.read_text().strip()
        client.execute_command("ACL", "SETUSER", "twinrl.learner", "on", f">{password}", "~*", "+@all")
        client.execute_command("CONFIG", "SET", "requirepass", "another")
        with pytest.raises(InputError, match="Authentication required"):
            reader_of(line.url, credentials=known).read([ask(1, 0, 1)[0]])
        assert_reads(reader_of(line.url, credentials=theirs), 1, data)
        client.execute_command("CONFIG", "SET", "requirepass", "")
        with pytest.raises((Unreachable, InputError)):
            reader_of(line.url, credentials=Credentials(authority=theirs.authority)).read([ask(1, 0, 1)[0]])
        with pytest.raises(InputError, match="TLS refused"):
            reader_of(line.url, credentials=Credentials(authority=strangers.authority)).read([ask(1, 0, 1)[0]])
        with pytest.raises(InputError, match="cannot be read"):
            reader_of(line.url, credentials=Credentials(authority=tmp_path / "none")).read([ask(1, 0, 1)[0]])
        with pytest.raises(Unreachable):
            reader_of(line.url.replace("rediss:", "redis:"), command_timeout_s=0.5).read([ask(1, 0, 1)[0]])


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"-NOAUTH Authentication required.\r\n", InputError, "NOAUTH"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", Unreachable, "LOADING"),
        (b"-MOVED 3999 127.0.0.1:6381\r\n", Unreachable, "MOVED"),
        (b"-OOM command not allowed\r\n", Unreachable, "maxmemory"),
        (b"-WRONGTYPE Operation against a key\r\n", Unreachable, "WRONGTYPE"),
        (b"$4294967296\r\n", Unreachable, "4294967296 bytes, asked for 4"),
        (b"$99999999999999999999\r\n", Unreachable, "a length expected"),
        (b"$5\r\nhello\r\n", Unreachable, "asked for 4"),
        (b"$-5\r\n", Unreachable, "a length expected"),
        (b":4\r\n", Unreachable, "a length expected"),
        (b"$4\r\nabcdefgh", Unreachable, "the end of an answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Unreachable, "a length expected"),
        (b"x" * 5_000, Unreachable, "a line of more than"),
    ],
)
def test_an_answer_that_is_no_answer_is_one_clear_line_and_the_next_connection_works(tmp_path, answer, error, text):
    with Script([answer, b"$4\r\nabcd\r\n"], path=tmp_path / "s") as script:
        reader = reader_of(script.url)
        request, out = ask(1, 0, 4)
        tracemalloc.start()
        with pytest.raises(error, match=text) as caught:
            reader.read([request, request])
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
        assert "\n" not in str(caught.value)
        assert reader.read([request]) == [True]
        assert out.tobytes() == b"abcd"


def test_the_end_of_the_connection(tmp_path):
    with Script([b"$4\r\nab", b"$4\r\nabcd\r\n"], path=tmp_path / "s", close=True) as script:
        reader = reader_of(script.url)
        with pytest.raises(Unreachable, match="closed the connection"):
            reader.read([ask(1, 0, 4)[0]])
        assert reader.read([ask(1, 0, 4)[0]]) == [True]
    with pytest.raises(Unreachable):
        reader.read([ask(1, 0, 4)[0]])


def test_silence_and_drops_of_bytes_end_at_the_deadline(tmp_path):
    def drip(connection: socket.socket) -> None:
        answer_handshake(connection)
        connection.sendall(b"$400\r\n")
        while not left.wait(0.02):
            connection.sendall(b"x")

    left = threading.Event()
    with Script([b""], path=tmp_path / "silent") as script, pytest.raises(Unreachable, match="did not answer"):
        reader_of(script.url, command_timeout_s=0.2).read([ask(1, 0, 4)[0]])
    with Listener(drip, path=tmp_path / "slow") as slow, pytest.raises(Unreachable, match="too slowly"):
        reader_of(slow.url, command_timeout_s=0.2).read([ask(1, 0, 400)[0]])
    left.set()


def test_a_restart_between_two_reads_goes_unnoticed(tmp_path):
    with EmbeddedServer(tmp_path / "server") as server:
        client = connect(ReplaySettings(urls=(server.url,)))
        data = put(client, 1, 1_000)
        client.close()
        reader = reader_of(server.url)
        assert_reads(reader, 1, data)
        server.stop()
        server.start()
        assert_reads(reader, 1, data)


def answers_from(chunks: list[bytes]) -> Answers:
    """Answers of a peer whose bytes arrive in these parts, and who closes then."""
    left = [memoryview(chunk) for chunk in reversed(chunks) if chunk]

    def receive(view: memoryview) -> int:
        if not left:
            return 0
        chunk = left.pop()
        count = min(len(chunk), len(view))
        view[:count] = chunk[:count]
        if count < len(chunk):
            left.append(chunk[count:])
        return count

    return Answers(receive)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    ends = sorted({min(each, len(data)) for each in at} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(ends)]


LONG = bytes(range(256)) * 80
"""More than a read brings at once."""


@settings(deadline=None)
@given(
    payloads=st.lists(
        st.tuples(st.binary(max_size=200) | st.binary(max_size=9).map(LONG.__add__), st.booleans()), max_size=8
    ),
    at=st.lists(st.integers(0, 60_000), max_size=30),
)
def test_answers_are_the_same_however_they_are_cut(payloads, at):
    sent = b"".join(b"$%d\r\n%s\r\n" % (len(data), data) for data, _ in payloads)
    answers = answers_from(cut(sent, at))
    for data, longer in payloads:
        out = bytearray(len(data) + longer)
        assert answers.bulk([memoryview(out)], len(out)) is not longer
        assert bytes(out) == (bytes(len(out)) if longer else data)


LIKELY = st.sampled_from(
    [b"$", b"-1", b"\r\n", b"\r", b"+OK\r\n", b"-ERR x\r\n", b"*2\r\n", b"$4\r\nabcd\r\n", b"0", b"8"]
)


@settings(deadline=None)
@given(
    parts=st.lists(LIKELY | st.binary(max_size=30), max_size=40),
    at=st.lists(st.integers(0, 400), max_size=20),
    sizes=st.lists(st.integers(1, 10), min_size=1, max_size=10),
)
def test_arbitrary_bytes_are_an_answer_or_an_error(parts, at, sizes):
    answers = answers_from(cut(b"".join(parts), at))
    with pytest.raises((redis.ConnectionError, redis.ResponseError)):
        for size in sizes * 1000:
            answers.bulk([memoryview(bytearray(size))], size)
