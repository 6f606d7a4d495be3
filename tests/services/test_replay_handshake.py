"""Tests the greeting of a server, presence, and the stats of servers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import redis
from replay_ledger import names_held
from replay_samples import SCHEMA, make_segment, send, wait_until

from protos.errors import InputError, SchemaMismatch, Unreachable
from protos.schema import Schema
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter, connect, presence, reaching, server_stats
from services.replay.connection import greet

OTHER = Schema(side_px=32, wrist_px=16)


@pytest.fixture
def server(tmp_path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "server") as server:
        yield server


@pytest.fixture
def settings(server) -> ReplaySettings:
    return ReplaySettings(urls=(server.url,))


def segment(name: str = "e", schema: Schema = SCHEMA):
    return make_segment(np.random.default_rng(0), episode=name, schema=schema)


class FakeServer:
    """Answers INFO with a text and everything else with OK."""

    def __init__(self, info: str) -> None:
        self._answer = f"${len(info)}\r\n{info}\r\n".encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                received = b""
                while data := connection.recv(4096):
                    received += data
                    if b"QUIT" in received:
                        return
                    for command in data.split(b"*")[1:]:
                        connection.sendall(self._answer if b"INFO" in command else b"+OK\r\n")

    def close(self) -> None:
        with socket.create_connection(self._listener.getsockname(), timeout=5) as connection:
            connection.sendall(b"*1\r\n$4\r\nQUIT\r\n")
        self._thread.join(5)
        self._listener.close()


class TestSchema:
    def test_the_first_writer_names_it_and_another_is_refused(self, settings, caplog):
        send(settings, [segment()])
        with ReplayWriter(settings, OTHER, actor="odd", spool=None) as writer:
            wait_until(lambda: writer._failure is not None)
            for call in (
                lambda: writer.add(segment(schema=OTHER), ("twin",)),
                lambda: writer.wait_for_allowance("twin", lambda: False),
            ):
                with pytest.raises(
                    SchemaMismatch, match=f"schema {SCHEMA.hash}, this program has {OTHER.hash}"
                ) as said:
                    call()
                assert "\n" not in str(said.value)
            failures = writer.stats()["failures"]
        assert writer.stats()["failures"] == failures == 0
        assert caplog.text.count("odd stops sending") == 1
        assert len(names_held(settings)) == 1

    def test_waiting_for_the_last_segments_ends_too(self, settings):
        with ReplayWriter(settings, OTHER, actor="early", spool=None) as writer:
            writer.add(segment(schema=OTHER), ("twin",))
            assert writer.flush(20) == 0
        with ReplayWriter(settings, SCHEMA, actor="late", spool=None) as writer:
            try:
                writer.add(segment(), ("twin",))
                with pytest.raises(SchemaMismatch):
                    writer.flush(20)
            except SchemaMismatch:
                pass  # it knew before the first segment came

    def test_a_reader_compares_and_does_not_claim(self, settings):
        with closing(connect(settings)) as client:
            greet(client, settings, OTHER, claim=False)
            greet(client, settings, SCHEMA, claim=True)
            with pytest.raises(SchemaMismatch, match="another prefix than 'twinrl'"):
                greet(client, settings, OTHER, claim=False)
            greet(client, replace(settings, prefix="other"), OTHER, claim=True)

    def test_a_hostile_one_is_read_no_further_than_needed(self, settings):
        with closing(connect(settings)) as client:
            client.execute_command("SET", "twinrl:schema", b"\xff" * (1 << 20))
            with pytest.raises(SchemaMismatch) as said:
                greet(client, settings, SCHEMA, claim=True)
        assert len(str(said.value)) < 500

    def test_segments_of_other_cameras_in_the_spool_stay_there(self, tmp_path):
        settings = ReplaySettings(urls=("unix:///nowhere/valkey.sock",))
        writer = ReplayWriter(settings, OTHER, actor="arm", spool=tmp_path)
        writer.add(segment(schema=OTHER), ("twin",))
        writer._stop.set()
        writer._thread.join()
        writer._spool.close()
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(SchemaMismatch, match=f"unsent segments of schema {OTHER.hash}"):
            ReplayWriter(settings, SCHEMA, actor="arm", spool=tmp_path)
        assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("info", "text"),
    [
        ("redis_version:6.0.16\r\n", r"is Redis 6\.0\.16: Redis 6\.2 or Valkey is the oldest"),
        ("redis_version:5.0.7\r\n", r"is Redis 5\.0\.7"),
        ("redis_version:7.2.4\r\nvalkey_version:9.1.2\r\nredis_mode:cluster\r\n", "node of a cluster"),
    ],
)
def test_a_server_that_will_not_do_is_named(info, text):
    server = FakeServer(info)
    settings = ReplaySettings(urls=(server.url,))
    with closing(connect(settings)) as client, reaching(settings), pytest.raises(InputError, match=text):
        greet(client, settings, SCHEMA, claim=True)
    server.close()


def test_settings_of_the_server_that_will_hurt_are_spoken_of(server, settings, caplog):
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 1 << 30)
        client.config_set("maxmemory-policy", "allkeys-lru")
    with closing(connect(settings)) as client:
        greet(client, settings, SCHEMA, claim=True)
        assert "evicts data by its maxmemory-policy allkeys-lru: set noeviction" in caplog.text
        assert f"a maxmemory of {1 << 30} bytes for buffers of {8 << 30}" in caplog.text
        caplog.clear()
        greet(client, replace(settings, capacity_bytes=1 << 20), SCHEMA, claim=True)
        assert "maxmemory of" not in caplog.text


class TestPresence:
    def test_a_writer_is_seen_and_leaves(self, settings):
        with ReplayWriter(settings, SCHEMA, actor="twin/0", spool=None) as writer:
            writer.add(segment(), ("twin",))
            wait_until(lambda: any(each.stats["segments"] == 1 for each in presence(settings)))
            (one,) = presence(settings)
            assert (one.kind, one.name, one.shard, one.host) == ("writer", "twin/0", 0, socket.gethostname())
            assert 0 <= one.age_s < 20
            assert one.stats.keys() == writer.stats().keys()
        assert presence(settings) == []

    def test_the_silent_are_forgotten_by_the_server_itself(self, settings):
        with ReplayWriter(settings, SCHEMA, actor="arm", spool=None):
            wait_until(lambda: presence(settings) != [])
            with redis.Redis.from_url(settings.urls[0]) as client:
                assert 0 < client.ttl("twinrl:presence:writer:arm") <= 600

    def test_nonsense_is_left_out(self, settings, caplog):
        with redis.Redis.from_url(settings.urls[0]) as client:
            told = (b"\x80\x04.", b"[]", b'{"pid": "x"}', b'{"host": "h", "pid": 1, "unsent": null}')
            for i, text in enumerate(told):
                client.set(f"twinrl:presence:writer:w{i}", text, ex=20)
                client.sadd("twinrl:presence", f"writer:w{i}")
        (one,) = presence(settings)
        assert (one.name, one.pid) == ("w3", 1)
        assert np.isnan(one.stats["unsent"])
        assert caplog.text.count("cannot be read") == 3


class TestServerStats:
    def test_each_shard_tells_what_it_holds(self, server, settings):
        send(replace(settings, budgets={"real": 10**9}), [segment(f"e{i}") for i in range(3)], "twin", "real")
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", 1 << 30)
            held = client.strlen("{twinrl:real}:segment:1")
        (stats,) = server_stats(settings)
        assert (stats.problem, stats.shard, stats.url, stats.logged) == ("", 0, server.url, True)
        assert stats.version.startswith(("Valkey ", "Redis "))
        assert 0 < stats.memory_bytes < stats.memory_limit_bytes == 1 << 30
        assert stats.clients >= 1
        assert (stats.buffers["twin"].segments, stats.buffers["twin"].transitions) == (3, 12)
        assert stats.buffers["real"].capacity_bytes == 10**9
        assert stats.buffers["real"].bytes >= 3 * held - 10
        assert stats.buffers["demo"].segments == 0

    def test_a_dead_shard_is_a_line(self, settings):
        both = replace(settings, urls=(*settings.urls, "redis://user:secret@127.0.0.1:1"), connect_timeout_s=0.5)
        alive, dead = server_stats(both)
        assert alive.problem == ""
        assert dead.problem.startswith("replay at redis://127.0.0.1:1 did not answer")
        assert "\n" not in dead.problem
        assert "secret" not in repr(dead)
        with pytest.raises(Unreachable):
            presence(both)

    def test_a_full_one_says_so(self, server, settings):
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", 1)
        assert server_stats(settings)[0].problem.startswith("replay is full")
