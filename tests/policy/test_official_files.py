"""These tests read checkpoint folders: steps, formats, hostile files."""

import json

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_files import nested, packed, small_checkpoint, write_checkpoint

from policy.octo.official.checkpoint import leaves, read_checkpoint, read_msgpack
from policy.octo.official.config import head_settings
from protos.errors import CorruptData, InputError, TwinRLError

WEIGHTS = {"octo_transformer/a": np.arange(6, dtype=np.float32).reshape(2, 3), "octo_transformer/b": np.ones(2)}


def write(path, data):
    path.write_bytes(data)
    return path


def extension(code, payload):
    return msgpack.packb({"a": msgpack.ExtType(code, msgpack.packb(payload))})


def test_the_newest_step_unless_one_is_named(tmp_path):
    folder = write_checkpoint(tmp_path / "c", WEIGHTS, {"model": {}}, steps=(900, 20_000, 1000))
    (folder / "notes").mkdir()
    assert read_checkpoint(folder).step == 20_000
    assert read_checkpoint(folder, 900).step == 900
    with pytest.raises(InputError, match="no step 5; choose one of 900, 1000, 20000"):
        read_checkpoint(folder, 5)


def test_folders_that_are_no_checkpoint_say_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_checkpoint(tmp_path / "none")
    with pytest.raises(InputError, match=r"config\.json: missing"):
        read_checkpoint(tmp_path)
    folder = write_checkpoint(tmp_path / "c", WEIGHTS, {"model": {}}, steps=())
    with pytest.raises(InputError, match="no step folder"):
        read_checkpoint(folder)
    (folder / "7" / "default" / "manifest.ocdbt").mkdir(parents=True)
    with pytest.raises(InputError, match=r"missing, manifest\.ocdbt there instead.*single msgpack file"):
        read_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CorruptData, match="not JSON"):
        read_checkpoint(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CorruptData, match="a JSON object expected"):
        read_checkpoint(folder)


def test_old_names_in_the_example_batch(tmp_path):
    folder = small_checkpoint(tmp_path / "c")
    example = {"tasks": {"a": np.ones(1)}, "observation": {"pad_mask": np.ones((1, 2), bool)}}
    (folder / "example_batch.msgpack").write_bytes(packed(example))
    found = read_checkpoint(folder).example
    assert found["task"]["a"].tolist() == [1.0]
    assert found["observation"]["timestep_pad_mask"].dtype == bool


def test_leaves_in_other_files_are_refused_with_the_reason(tmp_path):
    params = {**WEIGHTS, "octo_transformer/c": "PLACEHOLDER://octo_transformer.c"}
    folder = write_checkpoint(tmp_path / "c", params, {"model": {}})
    with pytest.raises(InputError, match=r"'octo_transformer/c' lies outside this file, in tensorstore files"):
        read_checkpoint(folder)
    chunked = {"big": {"__msgpack_chunked_array__": True, "shape": {}, "chunks": {}}}
    with pytest.raises(InputError, match="'big' is stored in chunks"):
        dict(leaves(chunked, "file"))
    with pytest.raises(CorruptData, match="'a' is int, an array expected"):
        dict(leaves({"a": 1}, "file"))


def test_dtypes_of_flax_are_read(tmp_path):
    tree = {"half": np.float16([1.5]), "whole": np.int32([[7]]), "yes": np.array([True]), "empty": np.zeros((0, 3))}
    found = read_msgpack(write(tmp_path / "m", packed(tree)))
    assert all(np.array_equal(found[name], tree[name]) and found[name].dtype == tree[name].dtype for name in tree)
    brain = (np.float32([1.0, -2.5]).view(np.uint32) >> 16).astype(np.uint16)
    found = read_msgpack(write(tmp_path / "m", extension(1, [[2], "bfloat16", brain.tobytes()])))
    assert found["a"].tolist() == [1.0, -2.5]
    assert read_msgpack(write(tmp_path / "m", extension(3, [[], "int64", np.int64(3).tobytes()])))["a"] == 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"hello",
        msgpack.packb([1, 2]),
        b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",  # an ext value of 4 GiB that is not there
        b"\x81\xa1a\xdd\xff\xff\xff\xff",  # a list of 4 · 10⁹
        b"\xdf\xff\xff\xff\xff",  # a map of 4 · 10⁹
        b"\x81\xa1a" * 5000,  # maps in maps
        b"\x91" * 5000,
        extension(1, [[2**40, 2**40], "float32", b""]),
        extension(1, [[3], "float32", b"\0" * 8]),
        extension(1, [[-1], "float32", b""]),
        extension(1, [[2.0], "float32", b"\0" * 8]),
        extension(1, [[1], "object", b"\0" * 8]),
        extension(1, [[1], "O", b"\0" * 8]),
        extension(1, [[1], ["float32"], b"\0" * 4]),
        extension(1, [[1], "float32"]),
        extension(1, {"shape": 1}),
        extension(1, [[1] * 70, "uint8", b"\0"]),
        extension(2, [1.0, 2.0]),
        msgpack.packb({1: 2}),
    ],
)
def test_hostile_files_end_in_one_error(tmp_path, data):
    with pytest.raises(CorruptData, match="not a flax msgpack file"):
        read_msgpack(write(tmp_path / "m", data))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_reads_or_is_refused(tmp_path, data):
    whole = bytearray(packed(nested(WEIGHTS)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file = write(tmp_path / "m", bytes(whole[: data.draw(st.integers(1, len(whole)))]))
    try:
        found = dict(leaves(read_msgpack(file), "file"))
    except TwinRLError:
        return
    assert all(isinstance(leaf, np.ndarray) for leaf in found.values())


def test_maps_in_maps_without_end_are_refused(tmp_path):
    data = b"\x81\xa1a" * 1000 + b"\x80"
    with pytest.raises(CorruptData, match="nested more than 64 deep"):
        dict(leaves(read_msgpack(write(tmp_path / "m", data)), "file"))


@pytest.mark.parametrize(("name", "limit"), [("num_blocks", 64), ("hidden_dim", 4096), ("diffusion_steps", 4096)])
@pytest.mark.parametrize("size", [10**9, 0])
def test_sizes_that_no_octo_has_are_refused(name, limit, size):
    config = {"model": {"heads": {"action": {"name": "DiffusionActionHead", "kwargs": {name: size}}}}}
    with pytest.raises(InputError, match=rf"model\.heads\.action\..*={size}: 1 to {limit}"):
        head_settings(config, 1)


def test_a_config_without_a_model(tmp_path):
    folder = write_checkpoint(tmp_path / "c", WEIGHTS, {})
    with pytest.raises(CorruptData, match="has no 'model'"):
        read_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps({"model": {"heads": {"action": 5}}}))
    with pytest.raises(CorruptData, match=r"model\.heads\.action=5: a module with kwargs expected"):
        head_settings(read_checkpoint(folder).config, 1)


def test_names_with_slashes_cannot_stand_for_another_leaf():
    with pytest.raises(CorruptData, match="'octo_transformer/a' has an odd name"):
        dict(leaves({"octo_transformer/a": np.ones(1)}, "file"))
