"""Tests the spool, which keeps segments on disk until the replay has them on its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from replay_samples import SCHEMA, make_segment, names_in, wait_until

from protos.errors import InputError
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter


@pytest.fixture
def server(tmp_path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "server") as server:
        yield server


def settings_of(server: EmbeddedServer, **options) -> ReplaySettings:
    return ReplaySettings(urls=(server.url,), **options)


class TestSpool:
    """Segments that one process of an actor could not send are sent by the next."""

    def fill(self, settings: ReplaySettings, spool: Path, names: list[str], incarnation: str = "first") -> None:
        with ReplayWriter(settings, SCHEMA, actor="arm", incarnation=incarnation, spool=spool) as writer:
            for name in names:
                writer.add(make_segment(np.random.default_rng(0), episode=name), ("twin",))

    @pytest.fixture(autouse=True)
    def short_farewell(self, monkeypatch) -> None:
        monkeypatch.setattr("services.replay.write.writer.CLOSE_TIMEOUT_S", 0.05)

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
            writer.add(make_segment(np.random.default_rng(0), episode="d"), ("twin",))
            assert writer.flush(20) == 0
            assert names_in(settings) == ["a", "b", "c", "d"]
            wait_until(lambda: not list((tmp_path / "spool").glob("first.*")))

    def test_what_was_sent_is_not_sent_again(self, server, tmp_path):
        settings = settings_of(server)
        with ReplayWriter(settings, SCHEMA, actor="arm", incarnation="first", spool=tmp_path / "spool") as writer:
            for name in ("a", "b"):
                writer.add(make_segment(np.random.default_rng(0), episode=name), ("twin",))
            assert writer.flush(20) == 0
        self.send_rest(settings, tmp_path / "spool").close()
        assert names_in(settings) == ["a", "b"]

    def test_the_same_life_goes_on_with_its_numbers(self, server, tmp_path):
        settings = settings_of(server)
        self.fill(settings, tmp_path / "spool", ["a", "b"])
        self.fill(settings, tmp_path / "spool", ["c"])
        self.send_rest(settings, tmp_path / "spool", "first").close()
        assert names_in(settings) == ["a", "b", "c"]

    @pytest.mark.parametrize("tail", [b"\x00", b"\xff" * 9, bytes(32)])
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
            "at = ReplaySettings(urls=(sys.argv[1],))\n"
            "w = ReplayWriter(at, SCHEMA, actor='arm', spool=pathlib.Path(sys.argv[2]))\n"
            "for i in range(5): w.add(make_segment(np.random.default_rng(i), episode=f'e{i}'), ('twin',))\n"
            "os.kill(os.getpid(), 9)\n"
        )
        arguments = [settings.urls[0], str(tmp_path / "spool"), str(Path(__file__).parent)]
        ended = subprocess.run([sys.executable, "-c", script, *arguments], timeout=60, check=False)
        assert ended.returncode == -signal.SIGKILL
        server.start()
        self.send_rest(settings, tmp_path / "spool").close()
        assert names_in(settings) == [f"e{i}" for i in range(5)]

    def test_a_full_spool_drops_the_newest_and_says_so(self, server, tmp_path, caplog):
        settings = settings_of(server, spool_bytes=40_000)
        server.stop()
        self.fill(settings, tmp_path / "spool", [f"e{i}" for i in range(20)])
        assert caplog.text.count("dropping segments") == 1
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
                writer.add(make_segment(np.random.default_rng(0), episode=f"e{i}"), ("twin",))
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
        writer.add(make_segment(np.random.default_rng(0), episode="a"), ("twin",))
        assert writer.flush(20) == 0
        wait_until(lambda: not writer._spool.records(0, 1))
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
        writer.add(make_segment(np.random.default_rng(0), episode="b"), ("twin",))
        assert writer.flush(20) == 0
        assert "replay lost segments 0 to 0 of arm/" in caplog.text
    assert names_in(settings) == ["b"]
