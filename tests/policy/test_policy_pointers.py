"""These tests give each reader of a policy's files a Git LFS pointer in place of its file; it says so."""

from pathlib import Path

import pytest
from official_files import small_checkpoint

from policy.checkpoint import load_policy, save_policy
from policy.model import Policy
from policy.octo.official import read_checkpoint
from policy.settings import PolicySettings
from protos.errors import InputError
from protos.settings import load_settings

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ABOUT = "a Git LFS pointer, not the file of 12,345 bytes"


def policy(folder):
    save_policy(folder, Policy(PolicySettings()))


def settings(folder):
    load_settings(PolicySettings, folder / "policy.json")


@pytest.mark.parametrize(
    ("make", "name", "read"),
    [
        (small_checkpoint, "config.json", read_checkpoint),
        (small_checkpoint, "300/default/checkpoint", read_checkpoint),
        (policy, "manifest.json", load_policy),
        (policy, "tensors-*.safetensors", load_policy),
        (Path.mkdir, "policy.json", settings),
    ],
)
def test_a_pointer_is_named_by_its_reader(make, name, read, tmp_path):
    folder = tmp_path / "folder"
    make(folder)
    path = next(iter(folder.glob(name)), folder / name)
    path.write_bytes(LFS)
    with pytest.raises(InputError, match=rf"{path.name}: {ABOUT}"):
        read(folder)


@pytest.mark.parametrize("read", [load_policy, read_checkpoint])
def test_a_name_on_a_hub_is_named(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="hf download rail-berkeley/octo-small"):
        read(Path("rail-berkeley/octo-small"))
