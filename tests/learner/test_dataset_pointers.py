"""These tests give each reader of a dataset's files a Git LFS pointer in place of its file; it says so."""

import json
from pathlib import Path

import numpy as np
import pytest
import rlds_samples
from lerobot_samples import make_episode, write

from learner.datasets import open_dataset
from protos.errors import InputError
from protos.schema import Schema

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ABOUT = "a Git LFS pointer, not the file of 12,345 bytes"


def lerobot(folder):
    write(folder, [make_episode(np.random.default_rng(0))])


def rlds(folder):
    rlds_samples.write_dataset(folder, [[rlds_samples.episode(np.random.default_rng(0))]])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lerobot, "meta/info.json"),
        (lerobot, "meta/episodes/chunk-000/file-000.parquet"),
        (lerobot, "data/chunk-000/file-000.parquet"),
        (lerobot, "videos/observation.images.side/chunk-000/file-000.mp4"),
        (rlds, "features.json"),
        (rlds, "cups-train.tfrecord-00000-of-00001"),
        (Path.mkdir, "pick_banana.pkl"),
        (Path.mkdir, "pick_banana.pkl.gz"),
    ],
)
def test_a_pointer_is_named_by_its_reader(make, name, tmp_path):
    folder = tmp_path / "folder"
    make(folder)
    (folder / name).write_bytes(LFS)
    with pytest.raises(InputError, match=rf"{Path(name).name}: {ABOUT}"):
        list(open_dataset(folder, Schema(side_px=48, wrist_px=32)))


def test_addresses_and_names_of_a_hub_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="hf download lerobot/pusht"):
        open_dataset(Path("lerobot/pusht"), Schema())
    described = tmp_path / "pusht.json"
    described.write_text(json.dumps({"path": "hf://datasets/lerobot/pusht", "lerobot": {}}))
    with pytest.raises(InputError, match="hf download lerobot/pusht --repo-type dataset"):
        open_dataset(described, Schema())
