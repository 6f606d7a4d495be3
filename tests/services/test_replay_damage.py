"""Tests torn, flipped and forged spool files: whole records are sent, the rest is set aside, nothing is allocated."""

import logging
import pickle
import struct
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_ledger import names_held
from replay_samples import SCHEMA, make_segment, wait_until

from protos.codec import PREFIX_BYTES, encode_segment, pack_prefix, read_header
from protos.errors import InputError, SchemaMismatch
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter
from services.replay.write.spool import Spool, read_blob, record_prefix

LIMIT = 1 << 30


def spool_in(folder: Path, incarnation: str = "second") -> Spool:
    return Spool(folder, SCHEMA, actor="arm", incarnation=incarnation, limit_bytes=LIMIT)


def blob(seq: int, **changes: str) -> bytes:
    segment = make_segment(np.random.default_rng(seq), steps=1, episode=f"e{seq}")
    name = {"actor": "arm", "incarnation": "first"} | changes
    return encode_segment(segment, SCHEMA, seq=seq, codec="zstd", **name)


def fill(folder: Path, count: int = 3) -> Path:
    """Makes a spool of `count` records and closes it."""
    spool = spool_in(folder, "first")
    for seq in range(count):
        assert spool.append(blob(seq), read_header(blob(seq)), ("twin",))
    spool.close()
    (path,) = folder.glob("first.*.spool")
    return path


def whole(folder: Path) -> list[int]:
    """Returns the numbers of the records that a new process finds; asserts that their bytes are those written."""
    spool = spool_in(folder)
    try:
        records = spool.records(0, spool.end)
        for record in records:
            assert spool.read(record) == read_blob(record) == blob(record.seq)
        return [record.seq for record in records]
    finally:
        spool.close()


SIZE = len(record_prefix(blob(0), 2)) + len(blob(0))


def test_a_flip_in_the_middle_sets_the_rest_aside(tmp_path, caplog):
    path = fill(tmp_path)
    data = bytearray(path.read_bytes())
    data[SIZE + SIZE // 2] ^= 1
    path.write_bytes(data)
    assert whole(tmp_path) == [0]
    (aside,) = tmp_path.glob("*.damaged")
    assert aside.read_bytes() == bytes(data[SIZE:])
    assert caplog.text.count("is damaged") == 1
    assert f"its last {len(data) - SIZE} bytes are set aside as {aside.name}" in caplog.text
    assert whole(tmp_path) == [0]
    assert caplog.text.count("is damaged") == 1


def test_later_files_of_the_same_life_survive(tmp_path, monkeypatch):
    monkeypatch.setattr("services.replay.write.spool.FILE_BYTES", SIZE * 3 // 2)
    spool = spool_in(tmp_path, "first")
    for seq in range(3):
        spool.append(blob(seq), read_header(blob(seq)), ("twin",))
    spool.close()
    files = sorted(tmp_path.glob("first.*.spool"))
    assert len(files) == 3
    files[1].write_bytes(b"x" * 500)
    assert whole(tmp_path) == [0, 2]


def test_numbers_that_damage_may_have_taken_are_not_given_again(tmp_path):
    """The server may have them already, and would take new segments under old numbers for repetitions."""
    path = fill(tmp_path)
    data = bytearray(path.read_bytes())
    data[SIZE + 100] ^= 1
    path.write_bytes(data)
    spool = spool_in(tmp_path, "first")
    assert spool.next_seq >= 3
    spool.close()


@given(
    edit=st.sampled_from(["flip", "cut", "insert", "extend"]),
    where=st.integers(0, 1 << 20),
    what=st.binary(min_size=1, max_size=60),
)
@settings(max_examples=120, deadline=None)
def test_any_damage_leaves_whole_records_and_loses_no_byte_silently(edit, where, what):
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = fill(folder)
        data = path.read_bytes()
        at = where % len(data)
        flipped = bytes([data[at] ^ (what[0] or 1)])
        damaged = {
            "flip": data[:at] + flipped + data[at + 1 :],
            "cut": data[:at],
            "insert": data[:at] + what + data[at:],
            "extend": data + what,
        }[edit]
        path.write_bytes(damaged)
        seqs = whole(folder)
        assert seqs == list(range(len(seqs)))
        kept = sum(SIZE_OF[seq] for seq in seqs)
        aside = b"".join(file.read_bytes() for file in folder.glob("*.damaged"))
        if edit in ("flip", "insert"):
            assert kept + len(aside) == len(damaged) or len(damaged) - kept < max(SIZE_OF) + len(what)
        if edit != "cut":
            assert len(seqs) >= (at // max(SIZE_OF) if edit != "extend" else 3)
        assert whole(folder) == seqs
    logging.disable(logging.NOTSET)


SIZE_OF = [len(record_prefix(blob(seq), 2)) + len(blob(seq)) for seq in range(3)]


def forged(length: int, start: bytes) -> bytes:
    """Makes the beginning of a record with a right checksum and any length."""
    covered = struct.pack("<IB", length, 2)
    return covered + struct.pack("<I", zlib.crc32(start[:PREFIX_BYTES], zlib.crc32(covered))) + start


@pytest.mark.parametrize(
    "data",
    [
        forged(2**32 - 1, b"TWRL" + b"\xff" * 200),
        forged(2**31, b"TWRL" + struct.pack("<IIIIII", 2, 2**32 - 1, 0, 0, 0, 0) + bytes(96)),
        forged(100, b"TWRL" + struct.pack("<IIIIII", 2, 2**32 - 1, 2**32 - 1, 2**32 - 1, 0, 0) + bytes(72)),
        forged(3, bytes(40)),
        forged(60, pickle.dumps({"reward": [1.0] * 30})[:60].ljust(60, b".")),
        pickle.dumps({"reward": [1.0] * 30}),
        b"\xff" * 64,
        bytes(64),
    ],
)
def test_hostile_files_are_set_aside_and_cost_nothing(tmp_path, caplog, data):
    path = tmp_path / "first.000000000000.spool"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        assert whole(tmp_path) == []
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    (aside,) = tmp_path.glob("*.damaged")
    assert aside.read_bytes() == data
    assert caplog.text.count("is damaged") == 1


def test_a_length_beyond_the_end_is_a_torn_record(tmp_path, caplog):
    path = fill(tmp_path, 1)
    with path.open("ab") as file:
        file.write(forged(100 << 20, b"TWRL" + bytes(96)))
    tracemalloc.start()
    try:
        assert whole(tmp_path) == [0]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert "cut a torn record of 109 bytes" in caplog.text


def test_the_spool_of_another_actor_or_schema_is_left_alone(tmp_path):
    path = tmp_path / "first.000000000000.spool"
    other = blob(0, actor="other")
    path.write_bytes(record_prefix(other, 2) + other)
    with pytest.raises(InputError, match="is the spool of actor 'other', not of 'arm'"):
        spool_in(tmp_path)
    header = read_header(blob(0))
    header.schema_hash = "0" * 16
    packed = header.SerializeToString()
    forged_blob = pack_prefix(packed, b"", frames=0, frames_crc=0) + packed
    path.write_bytes(record_prefix(forged_blob, 2) + forged_blob)
    with pytest.raises(SchemaMismatch, match="unsent segments of schema 0000000000000000"):
        spool_in(tmp_path)
    assert path.exists()
    path.unlink()
    spool_in(tmp_path).close()  # the lock was given back each time


def test_what_is_whole_reaches_the_replay(tmp_path):
    with EmbeddedServer(tmp_path / "server") as server:
        at = ReplaySettings(urls=(server.url,))
        folder = tmp_path / "spool"
        folder.mkdir()
        path = fill(folder)
        data = bytearray(path.read_bytes())
        data[2 * SIZE_OF[0] + 50] ^= 0x80
        path.write_bytes(data)
        with ReplayWriter(at, SCHEMA, actor="arm", incarnation="second", spool=folder) as writer:
            writer.add(make_segment(np.random.default_rng(9)), ("twin",))
            assert writer.flush(20) == 0
            wait_until(lambda: not list(folder.glob("first.*.spool")))
        assert set(names_held(at)) == {("arm", "first", 0), ("arm", "first", 1), ("arm", "second", 0)}


def test_a_spool_that_is_read_back_from_disk_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("services.replay.write.spool.RECENT_BYTES", SIZE * 2)
    spool = spool_in(tmp_path, "first")
    for seq in range(5):
        spool.append(blob(seq), read_header(blob(seq)), ("twin", "human"))
    for _ in range(2):
        for record in spool.records(0, 5):
            assert spool.read(record) == blob(record.seq)
            assert record.buffers == ("twin", "human")
    spool.close()
