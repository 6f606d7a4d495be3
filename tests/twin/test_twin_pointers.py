"""These tests give each reader of a scene's files a Git LFS pointer in place of its file; it says so."""

import shutil
from pathlib import Path

import pytest

from protos.errors import InputError
from twin.scan.frames import FrameSettings, collect
from twin.splats import read_splats

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ABOUT = "a Git LFS pointer, not the file of 12,345 bytes"


def photos(folder):
    shutil.copytree(Path(__file__).parents[2] / "examples/capture", folder)


@pytest.mark.parametrize(
    ("make", "name", "read"),
    [
        (Path.mkdir, "a.ply", lambda folder: read_splats(folder / "a.ply")),
        (Path.mkdir, "a.spz", lambda folder: read_splats(folder / "a.spz")),
        (photos, "03.jpg", lambda folder: collect(folder, folder / "out", FrameSettings())),
        (Path.mkdir, "scan.mp4", lambda folder: collect(folder / "scan.mp4", folder / "out", FrameSettings())),
    ],
)
def test_a_pointer_is_named_by_its_reader(make, name, read, tmp_path):
    folder = tmp_path / "folder"
    make(folder)
    (folder / name).write_bytes(LFS)
    with pytest.raises(InputError, match=rf"{name}: {ABOUT}"):
        read(folder)
