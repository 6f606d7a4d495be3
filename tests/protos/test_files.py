"""Files in use and files of persons: torn lines, full disks, other encodings, folders in place of files."""

import json
import os
import resource
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from protos.errors import InputError
from protos.files import MAX_SOCKET_PATH, JsonLines, read_json, read_lines, short_folder, write_durably


@pytest.fixture
def small_files():
    """Files of this process hold at most 100 bytes."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def add(path, *entries):
    with JsonLines(path) as lines:
        for entry in entries:
            lines.write(entry)


@pytest.mark.parametrize(
    "torn", [b'{"stage": "SF', b"{", b'{"stage": "SFT"}', b"\0\0\0\0", b"\xff\xfe", b"x" * 100_000]
)
def test_a_torn_last_line_is_cut_off_and_said_before_one_is_added(tmp_path, caplog, torn):
    path = tmp_path / "stages.jsonl"
    add(path, {"stage": "scan"})
    path.write_bytes(path.read_bytes() + torn)
    assert read_lines(path) == [{"stage": "scan"}]
    add(path, {"stage": "demonstrations"})
    assert [line["stage"] for line in read_lines(path)] == ["scan", "demonstrations"]
    assert path.read_bytes().count(b"\n") == 2
    assert f"{path} ended in a torn line of {len(torn)} bytes, cut off" in caplog.text


def test_a_file_that_is_one_torn_line_begins_anew(tmp_path):
    path = tmp_path / "new" / "lines.jsonl"
    add(path)
    path.write_bytes(b'{"a": ')
    add(path, {"a": 1}, {"a": 2})
    assert read_lines(path) == [{"a": 1}, {"a": 2}]


def test_a_line_that_does_not_fit_leaves_no_part_of_itself(tmp_path, small_files):
    path = tmp_path / "lines.jsonl"
    add(path, {"a": "x" * 40})
    with pytest.raises(OSError, match=r"lines\.jsonl") as caught:
        add(path, {"b": "y" * 90})
    assert caught.value.__notes__ == ["while adding a line to lines.jsonl"]
    assert read_lines(path) == [{"a": "x" * 40}] and path.read_bytes().endswith(b"\n")
    add(path, {"c": 1})
    assert len(read_lines(path)) == 2


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, small_files):
    path = tmp_path / "state.json"
    write_durably(path, [b"{}"])
    with pytest.raises(OSError, match=r"state\.json"):
        write_durably(path, [b"x" * 99, b"y" * 99])
    assert [each.name for each in tmp_path.iterdir()] == ["state.json"] and path.read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16; save the file as UTF-8"),
        ('{"a": 1}'.encode("utf-16-be"), "not JSON"),
        ('{"a": "é"}'.encode("latin-1"), "not text in UTF-8 (byte 7 is 0xe9)"),
        (b'{"a": 1', "not JSON (line 1"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 10_000, "not JSON"),
        (b" " * (17 << 20), "more than 16777216 bytes"),
    ],
)
def test_a_file_of_a_person_is_refused_with_path_and_reason(tmp_path, content, said):
    path = tmp_path / "given.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and said in str(caught.value)


def test_a_mark_of_the_encoding_and_a_pipe_are_fine(tmp_path):
    path = tmp_path / "given.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}
    reading, writing = os.pipe()  # of a shell: twinrl … --settings <(…)
    os.write(writing, json.dumps({"b": 2}).encode())
    os.close(writing)
    assert read_json(Path(f"/dev/fd/{reading}")) == {"b": 2}
    os.close(reading)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"this is a folder"):
        read_json(tmp_path)
    with pytest.raises(InputError, match=r"a part of this path is a file"):
        (tmp_path / "a").touch()
        read_json(tmp_path / "a" / "settings.json")
    with pytest.raises(InputError, match=r"no such settings file"):
        read_json(tmp_path / "b", what="settings file")
    with pytest.raises(InputError, match=r"more than"):
        read_json(Path("/dev/zero"))


@pytest.fixture
def temporary(monkeypatch):
    """Sets TMPDIR."""

    def set_to(folder):
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)

    return set_to


@pytest.mark.parametrize("spare", [0, 1, 5])
def test_a_socket_of_the_promised_length_can_be_bound(tmp_path, temporary, spare):
    temporary(tmp_path)
    room = MAX_SOCKET_PATH - len(str(tmp_path)) - len("/t-") - 8 - spare
    folder = short_folder("t-", room)
    assert folder.parent == tmp_path
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{folder}/{'s' * (room - 1)}")
    assert short_folder("t-", room + spare + 1).parent == Path("/tmp")


def test_a_folder_that_nobody_can_give_is_refused_with_the_limit(temporary, tmp_path):
    temporary(tmp_path)
    with pytest.raises(InputError, match=r"107 bytes, so its folder 3 at most; .*set TMPDIR"):
        short_folder("t-", 93)
