"""These tests name what stands in place of a file that was never fetched."""

from pathlib import Path

import pytest

from protos.errors import InputError
from protos.pointers import refuse_pointer, refuse_pointers

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (LFS, r"a Git LFS pointer, not the file of 12,345 bytes; fetch it: git lfs"),
        (LFS[:60], r"a Git LFS pointer, not the file; fetch"),
        (b"/annex/objects/SHA256E-s12--ab.bin\n", "a git-annex pointer.*git annex get file.bin"),
        (b"../../.git/annex/objects/SHA256E-s12--ab.bin\n", "a git-annex pointer"),
        (b"\n<!DOCTYPE html>\n<html>", "a web page, not the file"),
    ],
)
def test_what_stands_in_place_of_a_file_is_named(tmp_path, content, line):
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=line):
        refuse_pointer(path)
    with pytest.raises(InputError, match=line):
        refuse_pointers(tmp_path, "*.bin")


def test_a_link_to_what_was_left_behind_is_named(tmp_path):
    (tmp_path / "model.safetensors").symlink_to("../../blobs/0123")
    with pytest.raises(InputError, match=r"a link to \.\./\.\./blobs/0123, which is not here"):
        refuse_pointer(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hf://datasets/lerobot/pusht", r"hf download lerobot/pusht --repo-type dataset --local-dir DIR"),
        ("https://huggingface.co/rail-berkeley/octo-small-1.5", r"hf download rail-berkeley/octo-small-1\.5 --local"),
        ("https://huggingface.co/datasets/lerobot/pusht/tree/main", r"hf download lerobot/pusht --repo-type dataset"),
        ("rail-berkeley/octo-small-1.5", r"if it is a name on the Hugging Face hub.*hf download rail-berkeley/octo"),
        ("gs://bridge/1.0.0", r"an address, and only local files are read; download it and give the local folder"),
    ],
)
def test_addresses_and_names_of_a_hub_are_named(text, line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=line):
        refuse_pointer(Path(text))
    with pytest.raises(InputError, match=line):
        refuse_pointer(Path(text).resolve())


def test_everything_else_passes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "real.bin").write_bytes(b"\x00" * 300)
    (tmp_path / "empty").touch()
    for name in ("real.bin", "empty", "runs", "runs/demo", "a", "a/b/c", "/nowhere/at/all"):
        refuse_pointer(Path(name))
    refuse_pointers(tmp_path)
