"""These tests check the store after crashes and damage."""

import hashlib

import pytest

from protos import weights_pb2 as pb
from protos.errors import InputError
from services.weights import Limits
from services.weights.store import VersionStore


def make(number, **parts):
    """Returns a version and its data; each keyword is a part's bytes."""
    data = {hashlib.sha256(content).hexdigest(): content for content in parts.values()}
    entries = [
        pb.WeightPart(name=name, sha256=sha256, size=len(content))
        for (name, content), sha256 in zip(parts.items(), data, strict=True)
    ]
    return pb.WeightVersion(number=number, published_unix_s=number, settings_json="{}", parts=entries), data


def pieces(data):
    """Returns each part in pieces of three bytes, as the store takes them."""
    return {sha: lambda whole=whole: (whole[i : i + 3] for i in range(0, len(whole), 3)) for sha, whole in data.items()}


@pytest.fixture
def reopen(tmp_path):
    stores = []

    def _reopen():
        if stores:
            stores.pop()._lock.close()
        stores.append(VersionStore(tmp_path, limits=Limits(max_part_bytes=1 << 20)))
        return stores[-1]

    return _reopen


def test_the_newest_version_comes_back(reopen):
    store = reopen()
    for number in (1, 2, 7):
        version, data = make(number, backbone=b"frozen", head=b"head %d" % number)
        store.save(version, pieces(data))
    assert reopen().load() == (version, data)
    assert reopen().highest == 7


def test_a_frozen_part_is_written_once_and_old_heads_are_removed(reopen, tmp_path):
    store = reopen()
    version, data = make(1, backbone=b"frozen", head=b"head 1")
    store.save(version, pieces(data))
    (frozen,) = [path for path in (tmp_path / "parts").iterdir() if path.read_bytes() == b"frozen"]
    written = frozen.stat().st_ino
    for number in range(2, 6):
        version, data = make(number, backbone=b"frozen", head=b"head %d" % number)
        store.save(version, pieces({sha: content for sha, content in data.items() if content != b"frozen"}))
    assert frozen.stat().st_ino == written
    assert {path.read_bytes() for path in (tmp_path / "parts").iterdir()} == {b"frozen", b"head 4", b"head 5"}


@pytest.mark.parametrize("kind", ["part", "table", "torn table"])
def test_damage_falls_back_to_the_version_before_and_keeps_the_count(reopen, tmp_path, kind, caplog):
    store = reopen()
    old, old_data = make(4, head=b"head 4")
    store.save(old, pieces(old_data))
    new, new_data = make(5, head=b"head 5")
    store.save(new, pieces(new_data))
    path = tmp_path / "parts" / next(iter(new_data))
    if kind != "part":
        (path,) = (tmp_path / "versions").glob("0000000005-*")
    content = path.read_bytes()
    path.write_bytes(content[:-3] if kind == "torn table" else bytes([content[0] ^ 1]) + content[1:])
    assert reopen().load() == (old, old_data)
    assert path.with_name(path.name + ".damaged").exists()
    assert "is damaged" in caplog.text
    assert reopen().highest == 5


def test_a_store_of_an_earlier_version_is_left_alone_and_says_so(reopen, tmp_path, caplog):
    """Its names were hashes of the bytes alone, without the table."""
    store = reopen()
    version, data = make(3, head=b"head")
    version.parts[0].tensors.add(name="w", dtype="uint8", shape=[4])
    store.save(version, pieces(data))
    store = reopen()
    assert store.load() is None
    assert "from an earlier TwinRL, whose sha256 left the table out" in caplog.text
    assert [path.read_bytes() for path in (tmp_path / "parts").iterdir()] == [b"head"]
    assert store.highest == 3


def test_a_crash_between_part_and_table_leaves_the_old_version(reopen, tmp_path):
    store = reopen()
    old, data = make(1, head=b"head 1")
    store.save(old, pieces(data))
    (tmp_path / "parts" / "leftover.tmp").write_bytes(b"hal")
    (tmp_path / "versions" / "0000000002-0123456789abcdef.json.tmp").write_bytes(b"{")
    assert reopen().load() == (old, data)


def test_one_server_at_a_time(tmp_path):
    first = VersionStore(tmp_path, limits=Limits())
    with pytest.raises(InputError, match="another weights server"):
        VersionStore(tmp_path, limits=Limits())
    first._lock.close()
