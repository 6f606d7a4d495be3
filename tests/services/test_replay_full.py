"""Tests that with a full server or a full spool actors wait, tell the reason, and go on."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import redis
from replay_ledger import names_held
from replay_samples import SCHEMA, make_segment, send, wait_until

from protos.episode import Segment
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter

MEBIBYTE = 1 << 20
BIG = 512
"""Numbers of an embedding that makes a segment of 16 steps about 60 KB."""


@pytest.fixture
def server(tmp_path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "server") as server:
        yield server


def segment(name: str) -> Segment:
    return make_segment(np.random.default_rng(0), steps=16, episode=name, embedding_dim=BIG)


def room(server: EmbeddedServer, extra: int) -> None:
    """Lets the server grow by `extra` bytes from now on."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + extra)


def test_actors_spool_while_it_is_full_and_go_on_afterwards(server, caplog):
    settings = ReplaySettings(urls=(server.url,))
    with ReplayWriter(settings, SCHEMA, actor="arm", incarnation="life", spool=None) as writer:
        writer.add(segment("first"), ("twin",))
        assert writer.flush(20) == 0
        room(server, 3 * MEBIBYTE)
        for i in range(100):
            writer.add(segment(f"e{i}"), ("twin",))
        wait_until(lambda: writer.stats()["failures"] > 2)
        stuck = writer.unsent()
        assert 20 < stuck < 100
        assert caplog.text.count("keeps its segments on disk: replay is full: unix://") == 1
        with redis.Redis.from_url(server.url) as client:
            assert len(client.keys("*stage*")) <= 1
        room(server, 100 * MEBIBYTE)
        assert writer.flush(20) == 0
        assert writer.stats()["dropped"] == 0
    assert names_held(settings) == {("arm", "life", i): 1 for i in range(101)}


def test_a_ring_within_the_memory_makes_room_by_itself(server):
    settings = ReplaySettings(urls=(server.url,), capacity_bytes=4 * MEBIBYTE)
    with ReplayWriter(settings, SCHEMA, actor="arm", spool=None) as writer:
        room(server, 20 * MEBIBYTE)
        for i in range(300):
            writer.add(segment(f"e{i}"), ("twin",))
        assert writer.flush(30) == 0
        assert writer.stats()["failures"] == 0


def test_a_smaller_budget_frees_a_full_server(server):
    settings = ReplaySettings(urls=(server.url,))
    send(settings, [segment(f"e{i}") for i in range(60)], incarnation="first")
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) - MEBIBYTE // 2)
    send(replace(settings, capacity_bytes=MEBIBYTE), [segment("new")], incarnation="second")
    assert ("twin/0", "second", 0) in names_held(settings)


class TestRoomInTheSpool:
    """A twin actor waits above 90 % of its limit rather than drops."""

    def test_it_waits_and_says_why(self, server):
        settings = ReplaySettings(urls=(server.url,), spool_bytes=2 * MEBIBYTE)
        server.stop()
        with ReplayWriter(settings, SCHEMA, actor="arm", incarnation="life", spool=None) as writer:
            added, stop = count(), threading.Event()

            def act() -> None:
                while not stop.is_set():
                    writer.wait_for_allowance("twin", stop.is_set)
                    if not stop.is_set():
                        writer.add(segment(f"e{next(added)}"), ("twin",))

            thread = threading.Thread(target=act)
            thread.start()
            wait_until(lambda: "spool" in writer.waiting_for())
            assert writer.waiting_for().startswith("room in its spool: ")
            assert writer.stats()["waiting"] == 1
            held = writer.unsent()
            server.start()
            wait_until(lambda: writer.unsent() == 0 or writer._spool.end > held + 20)
            stop.set()
            thread.join()
            assert writer.waiting_for() == ""
            assert writer.flush(20) == 0
            assert writer.stats()["dropped"] == 0
            total = writer.stats()["segments"]
        assert names_held(settings) == {("arm", "life", i): 1 for i in range(int(total))}

    def test_it_ends_when_told(self, server, monkeypatch):
        monkeypatch.setattr("services.replay.write.writer.CLOSE_TIMEOUT_S", 0.05)
        settings = ReplaySettings(urls=(server.url,), spool_bytes=MEBIBYTE // 4)
        server.stop()
        with ReplayWriter(settings, SCHEMA, actor="arm", spool=None) as writer:
            while not writer._spool.nearly_full and not writer.stats()["dropped"]:
                writer.add(make_segment(np.random.default_rng(0)), ("twin",))
            asked = iter([False, False, True, True])
            writer.wait_for_allowance("twin", lambda: next(asked))


def test_stats_show_how_far_behind_an_actor_is(server):
    settings = ReplaySettings(urls=(server.url,))
    with ReplayWriter(settings, SCHEMA, actor="arm", spool=None) as writer:
        wait_until(lambda: writer.stats()["connected"] == 1)
        server.stop()
        wait_until(lambda: writer.stats()["connected"] == 0)
        writer.add(segment("a"), ("twin",))
        wait_until(lambda: writer.stats()["oldest_unsent_s"] > 0.05)
        stats = writer.stats()
        assert (stats["unsent"], stats["spool_limit_bytes"]) == (1, settings.spool_bytes)
        assert stats["spool_bytes"] > 60_000
        assert stats["transitions_per_s"] > 0
        server.start()
        assert writer.flush(20) == 0
        assert writer.stats()["oldest_unsent_s"] == 0
