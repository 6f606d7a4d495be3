"""The benchmarks of weights and joins: small ones, in real processes; what they count, never how long it took."""

import contextlib
import socket
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.weights.checks import CHECKS, Scene
from benchmarks.weights.joins import JoinsBench
from benchmarks.weights.joins import run as run_joins
from benchmarks.weights.model import checksums, digest, mark, train, transformer
from benchmarks.weights.proxy import Proxy
from benchmarks.weights.rounds import HEADER, Round, row
from benchmarks.weights.run import WeightsBench
from benchmarks.weights.run import run as run_weights
from benchmarks.weights.setup import Trust
from benchmarks.weights.worker import Worker, ask_all
from protos.errors import InputError, TwinRLError, Unreachable

ROLE = """
import os, sys
from protos.errors import InputError

class Echo:
    def __init__(self, *, word):
        self.word = word
    def say(self, times):
        print("a library talks")
        return self.word * times
    def refuse(self):
        raise InputError("word='x': too short")
    def die(self):
        sys.exit("no memory left")
    def close(self):
        pass
"""


def rows_of(markdown):
    """Cells of every table line by their first cell; lines that begin alike are kept apart by their order."""
    lines = [line.strip("|").split("|") for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if not line[0].strip().startswith("---")]


@given(st.integers(1, 8_000_000))
def test_a_transformer_has_as_many_parameters_as_asked_for(parameters):
    shapes = []

    class Shapes:
        def standard_normal(self, shape, dtype):
            shapes.append(shape)
            return np.float32(0)

    transformer(parameters, Shapes())
    assert sum(int(np.prod(shape)) for shape in shapes if 0 not in shape) == parameters


def test_a_step_is_small_and_a_mark_changes_one_tensor():
    rng = np.random.default_rng(0)
    tensors = transformer(2_000_000, rng)
    before, sums = {name: array.copy() for name, array in tensors.items()}, checksums(tensors)
    changed = mark(tensors, 7)
    assert [name for name, checksum in checksums(tensors).items() if checksum != sums[name]] == [changed]
    assert digest(checksums(tensors)) != digest(sums)
    tensors[changed][:] = before[changed]
    assert digest(checksums(tensors)) == digest(sums)
    train(tensors, 1e-4, rng)
    moves = np.concatenate([(tensors[name] - before[name]).ravel() for name in tensors])
    assert 0 < np.abs(moves).max() <= 1.001e-4
    assert (moves != 0).mean() > 0.9


@pytest.fixture
def echo_server():
    """Sends whoever connects 1,000,000 zeros."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(bytes(1_000_000))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(timeout=10)


def received(address):
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        data = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(1 << 16):
                data += block
        return data


def test_the_proxy_damages_the_bytes_that_were_named(echo_server):
    with Proxy(echo_server, flip_at=(0, 500_000, 1_000_001)) as proxy:
        first, second = received(proxy.address), received(proxy.address)
        assert (len(first), len(second)) == (1_000_000, 1_000_000)
        assert np.flatnonzero(np.frombuffer(first, "u1")).tolist() == [0, 500_000]
        assert np.flatnonzero(np.frombuffer(second, "u1")).tolist() == [1]  # positions go on over connections
        assert (proxy.done_flips, proxy.done_cuts, proxy.passed_bytes) == (3, 0, 2_000_000)


def test_the_proxy_cuts_once(echo_server):
    with Proxy(echo_server, cut_at=(700_000,)) as proxy:
        assert len(received(proxy.address)) <= 700_000  # a reset may overtake what was sent before it
        assert proxy.passed_bytes == 700_000
        assert len(received(proxy.address)) == 1_000_000
        assert (proxy.done_cuts, proxy.passed_bytes) == (1, 1_700_000)


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / "echo_role.py").write_text(ROLE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with Worker("echo_role:Echo", {"word": "ab"}, log=tmp_path / "log") as worker:
        yield worker


def test_a_worker_answers_complains_and_dies_in_one_line(worker):
    assert worker.ask("say", times=2) == "abab"
    assert ask_all([worker, worker], "say", times=1) == ["ab", "ab"]
    with pytest.raises(TwinRLError, match="echo_role:Echo: word='x': too short"):
        worker.ask("refuse")
    with pytest.raises(Unreachable, match="did not answer within 0 s"):
        worker.answer(0.0)
    with pytest.raises(Unreachable, match=rf"pid {worker.pid}, ended: no memory left"):
        worker.ask("die")


def test_a_row_counts_warm_rounds_only():
    def done(blocked_s, *swapped_s):
        cpu_s = {"server": 0.2, "publisher": 0.4, "subscribers": 0.6}
        return Round(blocked_s=blocked_s, swapped_s=swapped_s, pulled_bytes=8_000_000, cpu_s=cpu_s)

    first = [done(9.0, 3.0, 4.0), done(0.010, 0.1, 0.3), done(0.020, 0.2, 0.6)]
    second = [done(9.0, 5.0, 2.0), done(0.030, 0.3, 0.4)]
    cells = row("bf16", [first, second], receivers=2)
    assert len(cells) == len(HEADER)
    assert cells[:4] == ("bf16", "4.0", "20.0 / 30.0", "0.35 / 0.40")
    assert cells[4:] == ("0.60", "5.00", "0.20 / 0.40 / 0.30")


def test_every_way_is_measured(tmp_path):
    settings = WeightsBench(
        parameters=1_500_000,
        head_parameters=200_000,
        subscribers=2,
        rounds=1,
        sweeps=1,
        ways=("bf16", "head-tls"),
        checks=(),
        folder=tmp_path,
    )
    head, plain, tls = rows_of(run_weights(settings))
    assert tuple(head) == HEADER
    assert [plain[0], tls[0]] == ["bf16", "head-tls"]
    assert float(plain[1]) == pytest.approx(3.0, abs=0.1)
    assert float(tls[1]) == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("check", CHECKS)
def test_what_must_hold_holds(check, tmp_path):
    scene = Scene(
        folder=tmp_path,
        parameters=1_000_000,
        subscribers=1,
        watchers=3,
        watcher_processes=1,
        watched_parameters=1000,
        watch_s=1.0,
        trust=Trust(),
    )
    verdict = CHECKS[check](scene)
    assert verdict.passed, verdict.numbers


def test_newcomers_join_and_a_restarted_learner_finds_what_there_was():
    settings = JoinsBench(
        others=(2,), processes=1, write_every_s=0.1, parameters=(2000,), repeats=1, segments=10, dead_peers=False
    )
    cells = rows_of(run_joins(settings))
    assert [line[:2] for line in cells[1:3]] == [
        ["actor 3", "first segment acknowledged"],
        ["actor 3", "weights of 0.0 MB in use"],
    ]
    found = dict(cells[4:])
    assert found["publisher, killed after version 3"] == "its first version is 4"
    assert found["publisher and weights server, killed"] == "its first version is 5"
    for who in ("reader, killed while it follows", "reader and replay server"):
        assert found[who].startswith("176 of 176 transitions")


@pytest.mark.parametrize("wrong", [{"subscribers": 0}, {"rounds": 0}, {"watch_s": 0.0}])
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}="):
        WeightsBench(**wrong)
    with pytest.raises(InputError, match="others="):
        JoinsBench(others=())
