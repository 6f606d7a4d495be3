"""Tests writers with several servers, servers that forget their scripts, and byte budgets per buffer."""

import hashlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from replay_ledger import names_held
from replay_samples import SCHEMA, make_segment, send, wait_until

from protos.episode import Segment
from protos.errors import InputError, Unreachable
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter, delete_buffer, memory_for, shard_of, totals
from services.replay.scripts import run_script


@pytest.fixture
def servers(tmp_path) -> Iterator[list[EmbeddedServer]]:
    with EmbeddedServer(tmp_path / "0") as first, EmbeddedServer(tmp_path / "1") as second:
        yield [first, second]


@pytest.fixture
def settings(servers) -> ReplaySettings:
    return ReplaySettings(urls=tuple(server.url for server in servers), connect_timeout_s=0.5)


def segment(name: str) -> Segment:
    return make_segment(np.random.default_rng(0), episode=name)


ON = {shard: next(f"twin/{i}" for i in range(99) if shard_of(f"twin/{i}", 2) == shard) for shard in (0, 1)}
"""An actor of each shard."""


@given(st.text("abcdefgh0123456789/-", min_size=1), st.integers(1, 9))
def test_the_shard_of_an_actor_is_a_hash_of_its_name(actor, shards):
    expected = int(hashlib.sha1(actor.encode()).hexdigest()[:16], 16) % shards
    assert shard_of(actor, shards) == expected


def test_actors_spread_over_the_shards():
    counts = np.bincount([shard_of(f"twin-{i}", 4) for i in range(400)], minlength=4)
    assert counts.min() > 60


def test_each_actor_writes_to_its_own_server(servers, settings):
    for shard, actor in ON.items():
        send(settings, [segment(f"{shard}/{i}") for i in range(3)], "twin", "real", actor=actor, incarnation="life")
    for shard, actor in ON.items():
        alone = replace(settings, urls=(servers[shard].url,))
        assert set(names_held(alone)) == {(actor, "life", i) for i in range(3)}
        assert totals(alone)["twin"] == 12
    assert totals(settings) == {"demo": 0, "twin": 24, "real": 24, "human": 0}
    assert delete_buffer(settings, "twin") == 6
    assert totals(settings)["twin"] == 0
    assert totals(settings)["real"] == 24


def test_a_dead_shard_holds_up_its_own_actors_only(servers, settings):
    writers = {shard: ReplayWriter(settings, SCHEMA, actor=actor, spool=None) for shard, actor in ON.items()}
    os.kill(servers[1].pid, signal.SIGKILL)
    wait_until(lambda: not servers[1].running())
    for writer in writers.values():
        for i in range(5):
            writer.add(segment(f"e{i}"), ("twin",))
    assert writers[0].flush(20) == 0
    assert writers[1].unsent() == 5
    with pytest.raises(Unreachable, match=r"1/valkey\.sock"):
        totals(settings)
    servers[1].start()
    assert writers[1].flush(20) == 0
    for shard, writer in writers.items():
        assert (writer.shard, writer.stats()["shard"]) == (shard, shard)
        writer.close()
    assert set(names_held(settings).values()) == {1}
    assert len(names_held(settings)) == 10


def test_a_stalled_server_costs_its_deadline_and_no_more(servers, settings):
    os.kill(servers[1].pid, signal.SIGSTOP)
    try:
        patient = replace(settings, command_timeout_s=0.3)
        writer = ReplayWriter(patient, SCHEMA, actor=ON[1], spool=None)
        writer.add(segment("late"), ("twin",))
        wait_until(lambda: writer.stats()["failures"] > 1)
    finally:
        os.kill(servers[1].pid, signal.SIGCONT)
    assert writer.flush(20) == 0
    writer.close()
    assert list(names_held(settings).values()) == [1]


def test_a_flushed_script_cache_stops_nobody(servers):
    settings = ReplaySettings(urls=(servers[0].url,))
    with (
        ReplayWriter(settings, SCHEMA, actor="arm", incarnation="life", spool=None) as writer,
        redis.Redis.from_url(servers[0].url) as client,
    ):
        for i in range(20):
            writer.add(segment(f"e{i}"), ("twin", "human"))
            if i % 5 == 0:
                assert writer.flush(20) == 0
                client.script_flush()
        assert writer.flush(20) == 0
        assert (writer.stats()["failures"], writer.stats()["resyncs"]) == (0, 1)
    assert names_held(settings) == names_held(settings, "human") == {("arm", "life", i): 1 for i in range(20)}


class Forgetful:
    """A client of a server that forgets its scripts right after each of the next `times` loads."""

    def __init__(self, client: redis.Redis, times: int) -> None:
        self._client, self.left = client, times

    def execute_command(self, *command):
        answer = self._client.execute_command(*command)
        if command[0] == "SCRIPT LOAD" and self.left:
            self.left -= 1
            self._client.script_flush()
        return answer


def test_a_script_that_is_forgotten_before_it_runs_is_loaded_again(servers):
    with redis.Redis.from_url(servers[0].url) as client:
        forgetful = Forgetful(client, times=2)
        assert run_script(forgetful, "return ARGV[1] .. KEYS[1]", ["key"], "said to ") == b"said to key"
        assert forgetful.left == 0
        with pytest.raises(redis.exceptions.NoScriptError):
            run_script(Forgetful(client, times=9), "return 2", [])


class TestBudgets:
    """The buffers that are seldom filled may keep more than the busy one."""

    def test_each_buffer_has_its_own(self, servers):
        settings = ReplaySettings(urls=(servers[0].url,))
        send(settings, [segment("measure")], "demo", incarnation="first")
        with redis.Redis.from_url(servers[0].url) as client:
            size = client.strlen("{twinrl:demo}:segment:1")
        settings = replace(settings, capacity_bytes=size * 7 // 2, budgets={"real": size * 100})
        send(settings, [segment(f"e{i}") for i in range(20)], "twin", "real")
        assert [name[2] for name in names_held(settings)] == [17, 18, 19]
        assert len(names_held(settings, "real")) == 20

    def test_a_smaller_one_is_obeyed_at_once(self, servers):
        settings = ReplaySettings(urls=(servers[0].url,))
        send(settings, [segment(f"e{i}") for i in range(20)], incarnation="first")
        send(replace(settings, capacity_bytes=1), [segment("last")], incarnation="second")
        assert list(names_held(settings)) == [("twin/0", "second", 0)]

    def test_they_are_shared_out_among_the_shards(self):
        settings = ReplaySettings(urls=("unix:///a", "unix:///b"), capacity_bytes=1000, budgets={"real": 5000})
        assert (settings.capacity("twin"), settings.capacity("real")) == (500, 2500)
        assert memory_for(settings) > 3 * 500 + 2500

    def test_mistakes_are_named(self):
        with pytest.raises(InputError, match="buffer 'attic': choose one of demo, twin, real, human"):
            ReplaySettings(urls=("unix:///a",), budgets={"attic": 5})
        with pytest.raises(InputError, match="budget of 'real'=0: must be above 0"):
            ReplaySettings(urls=("unix:///a",), budgets={"real": 0})
