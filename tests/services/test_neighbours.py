"""Tests that what an actor left in its spool is sent by another one on its machine, once and nothing else."""

import os
from contextlib import closing

import numpy as np
import pytest
from replay_ledger import names_held
from replay_samples import SCHEMA, make_segment, wait_until

from protos.codec import encode_unnamed
from protos.schema import Schema
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter, presence
from services.replay.write.spool import Spool

SEGMENTS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("replay")) as server:
        yield server


def leave(folder, *, actor, schema=SCHEMA, age_s=3_600.0):
    """Leaves segments in a spool, untouched for a while, and returns it, still open."""
    spool = Spool(folder, schema, actor=actor, incarnation="life", limit_bytes=1 << 20)
    for number in range(SEGMENTS):
        segment = make_segment(np.random.default_rng(number), schema=schema, episode=f"{actor}-{number}")
        header, blob = encode_unnamed(segment, schema, codec="zstd").named(actor=actor, incarnation="life", seq=number)
        assert spool.append(blob, header, ("twin",))
    for path in folder.glob("*.spool"):
        os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    return spool


def test_what_neighbours_left_is_sent_and_the_living_are_left_alone(server, tmp_path):
    settings = ReplaySettings(urls=(server.url,))
    leave(tmp_path / "twin-1", actor="twin-1").close()
    leave(tmp_path / "arm-1", actor="arm-1").close()  # another kind, whose lives may share a name
    leave(tmp_path / "twin-3", actor="twin-3", age_s=0.0).close()  # may be starting again
    leave(tmp_path / "twin-4", actor="twin-4", schema=Schema(side_px=32, wrist_px=16)).close()
    alive = leave(tmp_path / "twin-2", actor="twin-2")
    with (
        closing(alive),
        ReplayWriter(settings, SCHEMA, actor="twin-0", spool=tmp_path / "twin-0", neighbours="twin-*") as writer,
    ):
        writer.add(make_segment(np.random.default_rng(9)), ("twin",))
        wait_until(lambda: len(names_held(settings)) > SEGMENTS)
        wait_until(lambda: not list((tmp_path / "twin-1").glob("*.spool")))
        assert {name[:1] for name in names_held(settings)} == {("twin-0",), ("twin-1",)}
        assert set(names_held(settings).values()) == {1}
        assert [one.name for one in presence(settings)] == ["twin-0"]
        wait_until(lambda: writer.stats()["unsent"] == 0)
    for name in ("arm-1", "twin-2", "twin-3", "twin-4"):
        assert [path.name for path in (tmp_path / name).glob("*.spool")] == ["life.000000000000.spool"], name


def test_segments_that_the_replay_has_already_are_not_sent_twice(server, tmp_path):
    settings = ReplaySettings(urls=(server.url,), prefix="again")
    leave(tmp_path / "twin-1", actor="twin-1").close()
    with ReplayWriter(settings, SCHEMA, actor="twin-1", spool=tmp_path / "twin-1") as writer:
        assert writer.flush(20) == 0
    leave(tmp_path / "else" / "twin-1", actor="twin-1").close()
    with ReplayWriter(settings, SCHEMA, actor="twin-0", spool=tmp_path / "else" / "twin-0", neighbours="twin-*"):
        wait_until(lambda: not list((tmp_path / "else" / "twin-1").glob("*.spool")))
    assert names_held(settings) == {("twin-1", "life", number): 1 for number in range(SEGMENTS)}
