"""Killed servers, torn files, full disks, wrong addresses: nothing is lost, nothing is doubled, nothing hangs."""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from replay_samples import SCHEMA, make_segment

from protos.errors import InputError, Unreachable
from services.replay import EmbeddedServer, ReplayReader, ReplaySettings, ReplayWriter, masked, totals


@pytest.fixture
def server(tmp_path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "server") as server:
        yield server


def settings_of(server: EmbeddedServer, **options) -> ReplaySettings:
    return ReplaySettings(url=server.url, **options)


def reader_of(settings: ReplaySettings) -> ReplayReader:
    options = {"buffers": ("real",), "gamma": 0.9, "n_step": 1, "capacity": {"real": 10_000}}
    return ReplayReader(settings, SCHEMA, keep_frames=("real",), **options)


def names_in(settings: ReplaySettings) -> list[str]:
    reader = reader_of(settings)
    while reader.poll():
        pass
    return [episode.name for episode in reader.episodes("real")]


def wait_until(condition, timeout_s: float = 30.0) -> None:
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail("did not happen in time")


def kill(server: EmbeddedServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.running())


def test_every_segment_arrives_once_though_the_server_is_killed(server):
    rng = np.random.default_rng(0)
    settings = settings_of(server)
    done = threading.Event()

    def write(writer: ReplayWriter, index: int) -> None:
        count = 0
        while not done.wait(0.002):
            writer.add(make_segment(rng, steps=1, episode=f"{index}/{count}"), ("real", "human"))
            count += 1

    writers = [ReplayWriter(settings, SCHEMA, actor=f"arm{i}", spool=None) for i in range(2)]
    threads = [threading.Thread(target=write, args=(writer, i)) for i, writer in enumerate(writers)]
    with reader_of(settings) as reader:
        for thread in threads:
            thread.start()
        for _ in range(2):
            before = reader.received()["real"]
            wait_until(lambda before=before: reader.received()["real"] > before + 50)
            kill(server)
            server.start()
        before = reader.received()["real"]
        wait_until(lambda: reader.received()["real"] > before + 20)
        done.set()
        for thread in threads:
            thread.join()
        for writer in writers:
            assert writer.flush(20) == 0
        written = [int(writer.stats()["segments"]) for writer in writers]
        wait_until(lambda: reader.received()["real"] == sum(written))
        wait_until(lambda: reader.counts()["real"] == sum(written))
        followed = [episode.name for episode in reader.episodes("real")]
    for writer in writers:
        assert writer.stats()["resyncs"] >= 3
        writer.close()
    expected = sorted(f"{i}/{n}" for i, count in enumerate(written) for n in range(count))
    assert sorted(followed) == expected
    assert sorted(names_in(settings)) == expected
    assert totals(settings)["real"] == totals(settings)["human"] == len(expected)


def test_a_restarted_server_serves_what_was_committed(server):
    settings = settings_of(server)
    with ReplayWriter(settings, SCHEMA, actor="arm", spool=None) as writer:
        writer.add(make_segment(np.random.default_rng(0), episode="kept"), ("real",))
        assert writer.flush(10) == 0
    server.stop()
    assert server.start() == settings.url
    assert names_in(settings) == ["kept"]


class TestSpool:
    """What one life of an actor could not send, the next one does."""

    def fill(self, settings: ReplaySettings, spool: Path, names: list[str], incarnation: str = "first") -> None:
        with ReplayWriter(settings, SCHEMA, actor="arm", incarnation=incarnation, spool=spool) as writer:
            for name in names:
                writer.add(make_segment(np.random.default_rng(0), episode=name), ("real",))

    @pytest.fixture(autouse=True)
    def short_farewell(self, monkeypatch) -> None:
        monkeypatch.setattr("services.replay.writer.CLOSE_TIMEOUT_S", 0.05)

    def send_rest(self, settings: ReplaySettings, spool: Path, incarnation: str = "second") -> ReplayWriter:
        writer = ReplayWriter(settings, SCHEMA, actor="arm", incarnation=incarnation, spool=spool)
        assert writer.flush(20) == 0
        return writer

    def test_the_next_life_sends_it_first(self, server, tmp_path):
        settings = settings_of(server)
        server.stop()
        self.fill(settings, tmp_path / "spool", ["a", "b", "c"])
        server.start()
        with self.send_rest(settings, tmp_path / "spool") as writer:
            writer.add(make_segment(np.random.default_rng(0), episode="d"), ("real",))
            assert writer.flush(20) == 0
            assert names_in(settings) == ["a", "b", "c", "d"]
            wait_until(lambda: not list((tmp_path / "spool").glob("first.*")))

    def test_what_was_sent_is_not_sent_again(self, server, tmp_path):
        settings = settings_of(server)
        with ReplayWriter(settings, SCHEMA, actor="arm", incarnation="first", spool=tmp_path / "spool") as writer:
            for name in ("a", "b"):
                writer.add(make_segment(np.random.default_rng(0), episode=name), ("real",))
            assert writer.flush(20) == 0
        self.send_rest(settings, tmp_path / "spool").close()
        assert names_in(settings) == ["a", "b"]

    def test_the_same_life_goes_on_with_its_numbers(self, server, tmp_path):
        settings = settings_of(server)
        self.fill(settings, tmp_path / "spool", ["a", "b"])
        self.fill(settings, tmp_path / "spool", ["c"])
        self.send_rest(settings, tmp_path / "spool", "first").close()
        assert names_in(settings) == ["a", "b", "c"]

    @pytest.mark.parametrize("tail", [b"\x00", b"\xff" * 9, b"\xff\xff\xff\x7f" + bytes(400)])
    def test_a_torn_tail_is_cut_at_the_last_whole_record(self, server, tmp_path, caplog, tail):
        settings = settings_of(server)
        server.stop()
        self.fill(settings, tmp_path / "spool", ["a", "b"])
        (path,) = (tmp_path / "spool").glob("first.*.spool")
        with path.open("ab") as file:
            file.write(tail)
        server.start()
        self.send_rest(settings, tmp_path / "spool").close()
        assert names_in(settings) == ["a", "b"]
        assert f"cut a torn record of {len(tail)} bytes" in caplog.text

    def test_a_record_torn_in_half_goes_alone(self, server, tmp_path, caplog):
        settings = settings_of(server)
        server.stop()
        self.fill(settings, tmp_path / "spool", ["a", "b", "c"])
        (path,) = (tmp_path / "spool").glob("first.*.spool")
        os.truncate(path, path.stat().st_size - 1000)
        server.start()
        self.send_rest(settings, tmp_path / "spool").close()
        assert names_in(settings) == ["a", "b"]
        assert "torn" in caplog.text

    def test_an_actor_that_is_killed_loses_nothing_it_added(self, server, tmp_path):
        settings = settings_of(server)
        server.stop()
        script = (
            "import os, sys, pathlib; sys.path.insert(0, sys.argv[3])\n"
            "import numpy as np; from replay_samples import SCHEMA, make_segment\n"
            "from services.replay import ReplaySettings, ReplayWriter\n"
            "w = ReplayWriter(ReplaySettings(url=sys.argv[1]), SCHEMA, actor='arm', spool=pathlib.Path(sys.argv[2]))\n"
            "for i in range(5): w.add(make_segment(np.random.default_rng(i), episode=f'e{i}'), ('real',))\n"
            "os.kill(os.getpid(), 9)\n"
        )
        arguments = [settings.url, str(tmp_path / "spool"), str(Path(__file__).parent)]
        ended = subprocess.run([sys.executable, "-c", script, *arguments], timeout=60, check=False)
        assert ended.returncode == -signal.SIGKILL
        server.start()
        self.send_rest(settings, tmp_path / "spool").close()
        assert names_in(settings) == [f"e{i}" for i in range(5)]

    def test_a_full_spool_drops_the_newest_and_says_so(self, server, tmp_path, caplog):
        settings = settings_of(server, spool_bytes=40_000)
        server.stop()
        self.fill(settings, tmp_path / "spool", [f"e{i}" for i in range(20)])
        assert "dropped a segment" in caplog.text
        assert sum(path.stat().st_size for path in (tmp_path / "spool").iterdir()) <= 40_000
        server.start()
        self.send_rest(settings, tmp_path / "spool").close()
        kept = names_in(settings)
        assert 2 <= len(kept) < 20
        assert kept == [f"e{i}" for i in range(len(kept))]

    def test_a_small_spool_is_trimmed_and_used_again(self, server, tmp_path):
        settings = settings_of(server, spool_bytes=40_000)
        with ReplayWriter(settings, SCHEMA, actor="arm", spool=tmp_path / "spool") as writer:
            for i in range(12):
                wait_until(lambda: writer.stats()["spool_bytes"] < 25_000)
                writer.add(make_segment(np.random.default_rng(0), episode=f"e{i}"), ("real",))
            assert writer.flush(20) == 0
            assert writer.stats()["dropped"] == 0
        assert names_in(settings) == [f"e{i}" for i in range(12)]

    def test_two_actors_cannot_share_a_spool(self, server, tmp_path):
        settings = settings_of(server)
        spool = tmp_path / "spool"
        with (
            ReplayWriter(settings, SCHEMA, actor="arm", spool=spool),
            pytest.raises(InputError, match="in use by another process"),
        ):
            ReplayWriter(settings, SCHEMA, actor="arm", spool=spool)
        server.stop()
        self.fill(settings, tmp_path / "spool", ["a"])
        with pytest.raises(InputError, match="spool of actor 'arm', not of 'other'"):
            ReplayWriter(settings, SCHEMA, actor="other", spool=tmp_path / "spool")


def test_a_server_that_lost_durable_segments_is_reported(server, tmp_path, caplog):
    settings = settings_of(server)
    with ReplayWriter(settings, SCHEMA, actor="arm", spool=tmp_path / "spool") as writer:
        writer.add(make_segment(np.random.default_rng(0), episode="a"), ("real",))
        assert writer.flush(20) == 0
        wait_until(lambda: not writer._spool.records(0, 1))
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
        writer.add(make_segment(np.random.default_rng(0), episode="b"), ("real",))
        assert writer.flush(20) == 0
        assert "replay lost segments 0 to 0 of arm/" in caplog.text
    assert names_in(settings) == ["b"]


def test_a_server_out_of_memory_is_waited_for(server, caplog):
    settings = settings_of(server)
    with ReplayWriter(settings, SCHEMA, actor="arm", spool=None) as writer, redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 1)
        writer.add(make_segment(np.random.default_rng(0), episode="a"), ("real",))
        assert writer.flush(0.5) == 1
        client.config_set("maxmemory", 0)
        assert writer.flush(20) == 0
    assert "keeps its segments on disk" in caplog.text
    assert names_in(settings) == ["a"]


class TestUnreachable:
    """One line that names the address and the deadline, soon."""

    @pytest.mark.parametrize("url", ["unix:///nowhere/valkey.sock", "redis://user:secret@127.0.0.1:1/0"])
    def test_nobody_there(self, url):
        settings = ReplaySettings(url=url, connect_timeout_s=0.5)
        reader = reader_of(settings)
        for attempt in (reader.start, reader.poll, lambda: totals(settings)):
            with pytest.raises(Unreachable) as caught:
                attempt()
            assert masked(url) in str(caught.value)
            assert "connect 0.5 s" in str(caught.value)
            assert "\n" not in str(caught.value)
            assert "secret" not in str(caught.value) + repr(settings)

    def test_a_server_that_never_answers(self, server):
        settings = settings_of(server, command_timeout_s=0.2)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(Unreachable, match=r"answer 0\.2 s"):
                reader_of(settings).start()
        finally:
            os.kill(server.pid, signal.SIGCONT)

    def test_a_writer_goes_on_and_says_it_once(self, caplog, monkeypatch):
        monkeypatch.setattr("services.replay.writer.CLOSE_TIMEOUT_S", 0.05)
        settings = ReplaySettings(url="unix:///nowhere/valkey.sock")
        with ReplayWriter(settings, SCHEMA, actor="arm", spool=None) as writer:
            writer.add(make_segment(np.random.default_rng(0)), ("real",))
            wait_until(lambda: writer.stats()["failures"] > 2)
            writer.wait_for_allowance("real", lambda: False)
            assert writer.unsent() == 1
            assert caplog.text.count("keeps its segments on disk: replay at unix:///nowhere/valkey.sock") == 1
        assert "1 segments unsent and lost" in caplog.text

    def test_a_wrong_kind_of_url(self):
        with pytest.raises(InputError, match="begin with one of unix://, redis://, rediss://"):
            ReplaySettings(url="http://localhost")

    def test_a_refused_password(self, server):
        with redis.Redis.from_url(server.url) as client:
            client.config_set("requirepass", "right")
        with pytest.raises(InputError, match="refused the user or password") as caught:
            totals(ReplaySettings(url=server.url.replace("unix://", "unix://:wrong@")))
        assert "wrong@" not in str(caught.value)


class TestEmbeddedServer:
    def test_its_socket_is_for_this_user_only(self, server):
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("port") == {"port": "0"} or client.config_get("port") == {b"port": b"0"}
            policy = client.config_get("maxmemory-policy")
        assert "noeviction" in str(policy)

    def test_a_directory_has_one_server(self, server, monkeypatch):
        monkeypatch.setattr("services.replay.server.LOCK_TIMEOUT_S", 0.1)
        with pytest.raises(InputError, match="served by another process"):
            EmbeddedServer(server.directory).start()
        assert server.running()

    def test_a_socket_path_that_is_too_long(self, tmp_path):
        with pytest.raises(InputError, match="limit is 107"):
            EmbeddedServer(tmp_path / ("x" * 120))

    def test_a_server_that_cannot_start_says_why(self, tmp_path):
        server = EmbeddedServer(tmp_path, socket=tmp_path / "missing" / "valkey.sock")
        with pytest.raises(Unreachable, match="ended with 1"):
            server.start()
        assert not server.running()

    def test_it_dies_with_the_process_that_started_it(self, tmp_path):
        script = (
            "import sys, time, pathlib; from services.replay import EmbeddedServer\n"
            "s = EmbeddedServer(pathlib.Path(sys.argv[1])); s.start(); print(s.pid, flush=True); time.sleep(60)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
            pid = int(parent.stdout.readline())
            parent.kill()
        wait_until(lambda: not alive(pid))
        with EmbeddedServer(tmp_path):
            pass


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_serves_until_a_signal(tmp_path, number):
    command = [sys.executable, "-m", "services.replay", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        url = program.stdout.readline().strip()
        assert url == f"unix://{tmp_path}/valkey.sock"
        assert totals(ReplaySettings(url=url))["real"] == 0
        program.send_signal(number)
        assert program.wait(20) == 0
    with pytest.raises(Unreachable):
        totals(ReplaySettings(url=url))


def test_the_program_explains_itself_in_one_line(tmp_path):
    command = [sys.executable, "-m", "services.replay", "--directory", str(tmp_path / ("x" * 120))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("socket path of")
    assert ended.stderr.count("\n") == 1
