"""These tests check tensors as bytes: exact where promised, rounded like torch elsewhere, named by one hash."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from protos.errors import InputError
from protos.tensors import Bf16, part_hash, part_sha256, part_table, read_bf16, write_bf16, write_part


def to_bf16(values):
    bits = np.empty(values.size, np.uint16)
    assert write_bf16(values.reshape(-1), bits)
    return bits


def from_bf16(bits):
    out = np.empty(bits.size, np.uint32)
    read_bf16(bits, out)
    return out.view(np.float32)


def unfit(tensors, wire="f32"):
    table = part_table("head", tensors, wire)
    return write_part(table, tensors, np.empty(table.size, np.uint8))


def test_bf16_rounds_as_torch_does():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, size=300_000, dtype=np.uint32)
    ties = np.arange(2**16, dtype=np.uint32) << 16 | 0x8000  # exactly between two bfloat16 numbers
    values = np.concatenate([bits, ties, [0, 0x80000000, 0x7F7F7FFF]]).astype(np.uint32).view(np.float32)
    values = np.concatenate([values[np.abs(values) < 3.3961775e38], -np.float32([3.389e38, 1e-45])])
    theirs = torch.from_numpy(values).to(torch.bfloat16)
    ours = to_bf16(values)
    np.testing.assert_array_equal(ours, theirs.view(torch.uint16).numpy())
    np.testing.assert_array_equal(from_bf16(ours).view(np.uint32), theirs.to(torch.float32).numpy().view(np.uint32))


@given(arrays.arrays(np.float32, st.integers(0, 20), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_bf16_keeps_eight_bits_and_rounds_its_own_numbers_to_themselves(values):
    rounded = from_bf16(to_bf16(values))
    normal = np.abs(values) >= np.finfo(np.float32).tiny
    assert (np.abs(rounded - values)[normal] <= np.abs(values)[normal] * 2.0**-8).all()
    np.testing.assert_array_equal(from_bf16(to_bf16(rounded)), rounded)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("wire", ["f32", "bf16"])
def test_tensors_that_are_not_numbers_are_named(bad, wire):
    values = np.zeros((400, 1000), np.float32)
    assert unfit({"a": values, "w": values}, wire) == ""
    wrong = values.copy()
    wrong[399, 7] = bad
    assert unfit({"a": values, "w": wrong}, wire) == "w"
    bits = (wrong.view(np.uint32) >> 16).astype(np.uint16)
    assert unfit({"a": values, "w": Bf16(bits)}) == "w"


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F7F8000, 0x7F7FFFFF])
def test_rounding_hides_neither_a_nan_nor_an_overflow(bits):
    values = np.full((1, 1), bits, np.uint32).view(np.float32)
    assert unfit({"w": values}, "bf16") == "w"


def test_objects_do_not_travel():
    with pytest.raises(InputError, match="head/w: dtype object cannot travel"):
        part_table("head", {"w": np.array([{}])}, "f32")
    with pytest.raises(InputError, match="uint16 bits, got float32"):
        Bf16(np.zeros(3, np.float32))


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(min_size=1), st.lists(st.floats(width=32, allow_nan=False), max_size=4), max_size=4))
def test_names_know_tensors_and_shapes_and_no_order(tensors):
    arrays = {name: np.array(values, np.float32) for name, values in tensors.items()}
    assert part_sha256(arrays) == part_sha256(dict(reversed(arrays.items())))
    digests = [part_sha256(arrays), part_sha256({f"{name}x": array for name, array in arrays.items()})]
    digests += [part_sha256({name: array[None] for name, array in arrays.items()})]
    assert not arrays or all(a != b for a, b in pairwise(digests))


def test_a_name_follows_every_bit_of_every_tensor():
    tensors = {"w": np.ones((3, 4), np.float32), "b": np.zeros(3, np.float32), "n": np.arange(3)}
    names = {part_sha256(tensors)}
    for key, array in tensors.items():
        changed = array.copy()
        changed.reshape(-1).view(np.uint8)[0] ^= 1
        names.add(part_sha256(tensors | {key: changed}))
    assert len(names) == 4
    assert all(len(name) == 64 and int(name, 16) >= 0 for name in names)


def test_a_name_is_that_of_what_arrives():
    """Matrices of a "bf16" part are named as rounded; its vectors, and everything of an "f32" part, as they are."""
    rng = np.random.default_rng(0)
    tensors = {"w": rng.normal(size=(8, 9)).astype(np.float32), "b": rng.normal(size=8).astype(np.float32)}
    bits = Bf16(to_bf16(tensors["w"]).reshape(8, 9))
    assert part_sha256(tensors, "bf16") == part_sha256(tensors | {"w": bits}, "bf16")
    assert part_sha256(tensors, "bf16") != part_sha256(tensors)
    finer = tensors | {"w": tensors["w"] * np.float32(1 + 1e-6)}
    assert part_sha256(finer, "bf16") == part_sha256(tensors, "bf16")
    assert part_sha256(finer) != part_sha256(tensors)
    assert part_sha256({"b": tensors["b"]}, "bf16") == part_sha256({"b": tensors["b"]})


def test_the_name_is_the_hash_of_table_and_bytes():
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    table = part_table("head", tensors, "f32")
    data = np.empty(table.size, np.uint8)
    write_part(table, tensors, data)
    digest = part_hash(table)
    digest.update(data.tobytes())
    assert table.sha256 == digest.hexdigest() == part_sha256(tensors)
