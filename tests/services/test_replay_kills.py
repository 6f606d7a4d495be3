"""Tests that no segment is lost or doubled when servers and actors are killed while they work, alone and together."""

import math
import os
import shutil
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from replay_ledger import ActorProcess, names_held
from replay_samples import SCHEMA, make_segment, wait_until

from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter


@pytest.fixture
def server(tmp_path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "server") as server:
        yield server


def kill(server: EmbeddedServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.running())


def test_nothing_is_lost_or_doubled(server, tmp_path):
    settings = ReplaySettings(urls=(server.url,))

    def start(name: str) -> ActorProcess:
        return ActorProcess(settings, name, tmp_path / "spools" / name)

    actors = {name: start(name) for name in ("twin/0", "twin/1")}
    past = []
    for victims in (("server",), ("twin/0",), ("server", "twin/1"), ("server",)):
        for actor in actors.values():
            actor.await_progress(60)
        if "server" in victims:
            kill(server)
        for name in set(victims) - {"server"}:
            actors[name].kill()
            past.append(actors[name])
            actors[name] = start(name)
        if "server" in victims:
            actors["twin/0"].await_progress(20)  # to its spool
            server.start()
    for actor in actors.values():
        actor.await_progress(20)
        actor.stop()
        assert actor.left == 0
    added = [name for actor in [*past, *actors.values()] for name in actor.added]
    held = names_held(settings)
    assert set(held.values()) == {1}
    assert set(added) <= set(held)
    assert len(held) - len(added) <= len(past)  # killed between adding and saying so


@pytest.mark.parametrize("forgotten", ["the latest", "everything"])
def test_a_server_that_comes_back_older_gets_the_rest_again(server, tmp_path, monkeypatch, forgotten):
    """A crash took what of its log had not reached the disk; test_replay_durability.py hangs the disk itself."""
    settings = ReplaySettings(urls=(server.url,))
    monkeypatch.setattr("services.replay.write.sender.FSYNC_STARTS_S", math.inf)  # so nothing is durable yet
    with ReplayWriter(settings, SCHEMA, actor="arm", incarnation="life", spool=None) as writer:

        def add(count: int) -> None:
            for _ in range(count):
                writer.add(make_segment(np.random.default_rng(0)), ("twin", "human"))
            assert writer.flush(20) == 0

        add(5)
        server.stop()
        shutil.copytree(server.directory, tmp_path / "older")
        server.start()
        add(5)
        kill(server)
        shutil.rmtree(server.directory)
        if forgotten == "the latest":
            shutil.copytree(tmp_path / "older", server.directory)
        server.start()
        add(2)
    expected = {("arm", "life", seq): 1 for seq in range(12)}
    assert names_held(settings) == names_held(settings, "human") == expected
