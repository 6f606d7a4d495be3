"""Tests that with killed, full and missing servers nothing is lost, nothing is doubled and nothing hangs."""

import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import redis
from replay_samples import SCHEMA, Names, make_segment, names_in, reader_of, wait_until

from protos.errors import InputError, Unreachable
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter, masked, totals


@pytest.fixture
def server(tmp_path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "server") as server:
        yield server


def settings_of(server: EmbeddedServer, **options) -> ReplaySettings:
    return ReplaySettings(urls=(server.url,), **options)


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
            writer.add(make_segment(rng, steps=1, episode=f"{index}/{count}"), ("twin", "human"))
            count += 1

    writers = [ReplayWriter(settings, SCHEMA, actor=f"arm{i}", spool=None) for i in range(2)]
    threads = [threading.Thread(target=write, args=(writer, i)) for i, writer in enumerate(writers)]
    followed = Names()
    with followed.reader(settings) as reader:
        for thread in threads:
            thread.start()
        for opened in (1, 2):
            before = reader.received()["twin"]
            wait_until(lambda before=before: reader.received()["twin"] > before + 50)
            wait_until(lambda opened=opened: all(writer.stats()["resyncs"] >= opened for writer in writers))
            kill(server)
            server.start()
        wait_until(lambda: all(writer.stats()["resyncs"] >= 3 for writer in writers))
        before = reader.received()["twin"]
        wait_until(lambda: reader.received()["twin"] > before + 20)
        done.set()
        for thread in threads:
            thread.join()
        for writer in writers:
            assert writer.flush(20) == 0
        written = [int(writer.stats()["segments"]) for writer in writers]
        wait_until(lambda: reader.received()["twin"] == sum(written))
        wait_until(lambda: reader.counts()["twin"] == sum(written))
    for writer in writers:
        writer.close()
    expected = sorted(f"{i}/{n}" for i, count in enumerate(written) for n in range(count))
    assert sorted(followed.names) == expected
    assert sorted(names_in(settings)) == expected
    assert totals(settings)["twin"] == totals(settings)["human"] == len(expected)


def test_a_restarted_server_serves_what_was_committed(server):
    settings = settings_of(server)
    with ReplayWriter(settings, SCHEMA, actor="arm", spool=None) as writer:
        writer.add(make_segment(np.random.default_rng(0), episode="kept"), ("twin",))
        assert writer.flush(10) == 0
    server.stop()
    assert server.start() == settings.urls[0]
    assert names_in(settings) == ["kept"]


def test_a_server_out_of_memory_is_waited_for(server, caplog):
    settings = settings_of(server)
    with ReplayWriter(settings, SCHEMA, actor="arm", spool=None) as writer, redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 1)
        writer.add(make_segment(np.random.default_rng(0), episode="a"), ("twin",))
        assert writer.flush(0.5) == 1
        client.config_set("maxmemory", 0)
        assert writer.flush(20) == 0
    assert "keeps its segments on disk" in caplog.text
    assert names_in(settings) == ["a"]


class TestUnreachable:
    """A server that does not answer is one line that names the address and the deadline."""

    @pytest.mark.parametrize("url", ["unix:///nowhere/valkey.sock", "redis://user:secret@127.0.0.1:1/0"])
    def test_nobody_there(self, url):
        settings = ReplaySettings(urls=(url,), connect_timeout_s=0.5)
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
        monkeypatch.setattr("services.replay.write.writer.CLOSE_TIMEOUT_S", 0.05)
        settings = ReplaySettings(urls=("unix:///nowhere/valkey.sock",))
        with ReplayWriter(settings, SCHEMA, actor="arm", spool=None) as writer:
            writer.add(make_segment(np.random.default_rng(0)), ("twin",))
            wait_until(lambda: writer.stats()["failures"] > 2)
            writer.wait_for_allowance("twin", lambda: False)
            assert writer.unsent() == 1
            assert caplog.text.count("keeps its segments on disk: replay at unix:///nowhere/valkey.sock") == 1
        assert "1 segments unsent and lost" in caplog.text

    def test_a_wrong_kind_of_url(self):
        with pytest.raises(InputError, match="begin with one of unix://, redis://, rediss://"):
            ReplaySettings(urls=("http://localhost",))

    def test_a_refused_password(self, server):
        with redis.Redis.from_url(server.url) as client:
            client.config_set("requirepass", "right")
        with pytest.raises(InputError, match="refused the user or password") as caught:
            totals(ReplaySettings(urls=(server.url.replace("unix://", "unix://:wrong@"),)))
        assert "wrong@" not in str(caught.value)
