"""The fault benchmark: it finds nothing where nothing is wrong, and finds what is."""

import re
from collections import Counter
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.faults import run as faults
from benchmarks.faults.actor import make_segment
from benchmarks.faults.journal import Claims, Journal, Verdict, committed
from benchmarks.faults.run import FaultsBench
from protos.errors import CorruptData, InputError
from protos.schema import Schema
from services.replay import EmbeddedServer, Keys, ReplaySettings, ReplayWriter, connect

KEYS = Keys("faults", "twin")
SMALL = FaultsBench(
    actors=2,
    segments_per_s=40,
    outage_segments_per_s=40,
    px=16,
    server_kills=1,
    actor_kills=1,
    double_kills=1,
    outage_s=1.0,
    shard_outage_s=1.0,
    load_s=0.3,
)


@pytest.fixture
def settings(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as server:
        yield ReplaySettings(urls=(server.url,), prefix="faults")


def write(settings, count, *, actor="actor0", incarnation="life1"):
    segment = make_segment(np.random.default_rng(0), 16)
    schema = Schema(side_px=16, wrist_px=16)
    with ReplayWriter(settings, schema, actor=actor, incarnation=incarnation, spool=None, codec="raw") as writer:
        for _ in range(count):
            writer.add(segment, ["twin"])
        assert writer.flush(20) == 0


def ids(*numbers):
    return {("actor0", "life1", number) for number in numbers}


def test_a_small_run_loses_and_doubles_nothing():
    text = faults.run(SMALL)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) == 5
    for row in rows:
        _, accepted, acknowledged, lost, doubled, learner, _, _ = (cell.strip() for cell in row.strip("|").split("|"))
        assert 0 < int(acknowledged) <= int(accepted)
        assert (lost, doubled, learner) == ("0", "0", "0 / 0")


def test_what_vanishes_from_a_server_or_comes_twice_is_found(monkeypatch):
    def tamper(_, stage):
        with closing(connect(stage.settings)) as client:
            entries = client.execute_command("XRANGE", KEYS.index, "-", "+", "COUNT", 2)
            (gone, _), (_, again) = entries
            client.execute_command("XDEL", KEYS.index, gone)
            client.execute_command("XADD", KEYS.index, "*", *[part for pair in again.items() for part in pair])
        return [0.0]

    monkeypatch.setattr(faults, "_outage", tamper)
    settings = replace(SMALL, server_kills=0, actor_kills=0, double_kills=0, shard_outage_s=0)
    with pytest.raises(CorruptData, match=r"lost or doubled(?s:.*)away for 1 s \| \d+ \| \d+ \| 1 \| 1 \|"):
        faults.run(settings)


def test_journals_survive_a_torn_last_line(tmp_path):
    journal = Journal(tmp_path, "actor0", "life1")
    for seq in (0, 1):
        journal.begin(seq)
        journal.accepted(seq)
        journal.sent(seq, seq + 3, 1)
    journal.begin(2)
    with (tmp_path / "actor0=life1").open("ab") as file:
        file.write(b"accepted 2")
    claims = Claims.read(tmp_path)
    assert claims.accepted == ids(0, 1)
    assert claims.begun == ids(0, 1, 2)
    assert (claims.acknowledged, claims.commits) == (1, 5)


def test_a_segment_in_doubt_may_be_there_or_not():
    claims = Claims(begun=ids(0, 1, 2), accepted=ids(0, 1))
    for arrived in (ids(0, 1), ids(0, 1, 2)):
        assert Verdict.of(Counter(arrived), claims) == Verdict(lost=0, doubled=0)
    assert Verdict.of(Counter({("actor0", "life1", 1): 3}), claims) == Verdict(lost=1, doubled=2)
    with pytest.raises(CorruptData, match="1 segments that no actor handed over"):
        Verdict.of(Counter(ids(0, 1, 9)), claims)


def test_rings_are_read_id_by_id(settings):
    write(settings, 3)
    assert committed(settings) == Counter(ids(0, 1, 2))


def test_a_slot_with_another_segment_is_no_segment(settings):
    write(settings, 2)
    with closing(connect(settings)) as client:
        client.execute_command("COPY", KEYS.slots + "1", KEYS.slots + "2", "REPLACE")
    with pytest.raises(CorruptData, match="slot 2 does not hold"):
        committed(settings)


def test_a_ring_that_dropped_segments_proves_nothing(settings):
    write(replace(settings, capacity_bytes=100_000), 8)
    with pytest.raises(InputError, match="has dropped segments"):
        committed(settings)


@pytest.mark.parametrize("wrong", [{"actors": 3}, {"actors": 0}, {"load_s": 0.0}, {"outage_s": -1.0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match=re.escape(f"{next(iter(wrong))}={next(iter(wrong.values()))}")):
        FaultsBench(**wrong)
