"""Tensors on the wire: exact where promised, rounded like torch elsewhere, checked before anything is allocated."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from protos import weights_pb2 as pb
from protos.errors import CorruptData, InputError
from services.weights.chunks import CHUNK_BYTES, PartAssembly, split
from services.weights.tensors import check_version, decode_part, encode_part, from_bf16, to_bf16

LIMIT = 1 << 20


def encoded(tensors, wire="f32"):
    part, data = encode_part("head", tensors, wire)
    part.sha256 = hashlib.sha256(data).hexdigest()
    return part, data


def version_of(*parts):
    return pb.WeightVersion(number=1, settings_json="{}", parts=parts)


def test_bf16_rounds_as_torch_does():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, size=200_000, dtype=np.uint32)
    ties = np.arange(2**16, dtype=np.uint32) << 16 | 0x8000  # exactly between two bfloat16 numbers
    values = np.concatenate([bits, ties, [0, 0x80000000, 0x7F7FFFFF, 0x7F800000]]).astype(np.uint32).view(np.float32)
    ours = from_bf16(to_bf16(values))
    theirs = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    finite = ~np.isnan(ours)
    np.testing.assert_array_equal(ours[finite].view(np.uint32), theirs[finite].view(np.uint32))


@given(arrays.arrays(np.float32, st.integers(0, 20), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_bf16_keeps_eight_bits_and_rounds_its_own_numbers_to_themselves(values):
    rounded = from_bf16(to_bf16(values))
    normal = np.abs(values) >= np.finfo(np.float32).tiny
    assert (np.abs(rounded - values)[normal] <= np.abs(values)[normal] * 2.0**-8).all()
    np.testing.assert_array_equal(from_bf16(to_bf16(rounded)), rounded)


@pytest.mark.parametrize("dtype", ["float32", "int8", "int64", "uint8", "uint32", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 5), (4, 7)])
def test_exact_dtypes_come_back_as_they_were(dtype, shape):
    array = (np.random.default_rng(1).normal(size=shape) * 50).astype(dtype)
    part, data = encoded({"before": np.ones(3, "u1"), "x": array})
    check_version(version_of(part), LIMIT)
    back = decode_part(part, bytearray(data))["x"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_matrices_travel_as_bf16_and_vectors_as_float32():
    matrix, vector = np.random.default_rng(2).normal(size=(8, 8)), np.random.default_rng(3).normal(size=8)
    part, data = encoded({"w": matrix, "b": vector}, "bf16")
    assert [entry.dtype for entry in part.tensors] == ["bfloat16", "float32"]
    back = decode_part(part, bytearray(data))
    np.testing.assert_array_equal(back["w"], from_bf16(to_bf16(matrix.astype(np.float32))))
    np.testing.assert_array_equal(back["b"], vector.astype(np.float32))


def test_a_transposed_view_travels_by_value():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    part, data = encoded({"x": array})
    np.testing.assert_array_equal(decode_part(part, bytearray(data))["x"], array)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_numbers_are_not_published(bad):
    with pytest.raises(InputError, match="head/w holds NaN or infinity"):
        encoded({"w": np.array([1.0, bad])})


def test_objects_do_not_travel():
    with pytest.raises(InputError, match="dtype object cannot travel"):
        encoded({"w": np.array([{}])})


def damaged_tables():
    def table(**changes):
        entry = {"name": "w", "dtype": "float32", "shape": [4], "offset": 0} | changes.pop("entry", {})
        part = {"name": "head", "sha256": "0" * 64, "size": 16, "tensors": [pb.TensorEntry(**entry)]} | changes
        return version_of(pb.WeightPart(**part))

    twice = version_of(*(pb.WeightPart(name="head", sha256="0" * 64) for _ in range(2)))
    return {
        "no parts": version_of(),
        "part named twice": twice,
        "unknown dtype": table(entry={"dtype": "object"}),
        "tensor beyond the part": table(entry={"shape": [5]}),
        "product overflows 64 bits": table(entry={"shape": [2**63, 2**63]}),
        "offset not aligned": table(entry={"shape": [1], "offset": 4}),
        "sha256 is a path": table(sha256="../../etc/passwd".ljust(64, "x")),
        "settings not JSON": pb.WeightVersion(number=1, settings_json="{", parts=table().parts),
    }


@pytest.mark.parametrize("what", damaged_tables())
def test_a_damaged_table_is_refused(what):
    with pytest.raises(CorruptData):
        check_version(damaged_tables()[what], LIMIT)


def test_an_impossible_shape_of_no_elements_is_corrupt():
    entry = pb.TensorEntry(name="w", dtype="float32", shape=[0, 2**63, 2**63])
    part = pb.WeightPart(name="head", sha256="0" * 64, tensors=[entry])
    check_version(version_of(part), LIMIT)
    with pytest.raises(CorruptData):
        decode_part(part, bytearray())


def test_sizes_are_limited_before_allocation():
    part = pb.WeightPart(name="head", sha256="0" * 64, size=1 << 60)
    with pytest.raises(InputError, match=f"max_part_bytes={LIMIT}"):
        check_version(version_of(part), LIMIT)


def test_chunks_in_order_make_the_part_again():
    part, data = encoded({"x": np.arange(CHUNK_BYTES // 2, dtype=np.int32)})
    assembly = PartAssembly(part)
    for chunk in split(data):
        assembly.add(chunk)
    assert assembly.complete
    assert assembly.finish() == data


@pytest.mark.parametrize("damage", ["bit", "length", "order"])
def test_a_bad_chunk_changes_nothing(damage):
    part, data = encoded({"x": np.arange(CHUNK_BYTES // 2, dtype=np.int32)})
    first, second = split(data)
    assembly = PartAssembly(part)
    assembly.add(first)
    bad = pb.WeightChunk()
    bad.CopyFrom(second)
    if damage == "bit":
        bad.data = bytes([second.data[0] ^ 1]) + second.data[1:]
    elif damage == "length":
        bad.data = second.data[:-1]
    else:
        bad.offset = 0
    with pytest.raises(CorruptData):
        assembly.add(bad)
    assert assembly.received == CHUNK_BYTES
    assembly.add(second)
    assert assembly.finish() == data


def test_bytes_that_are_not_the_announced_ones_fail_at_the_end():
    part, data = encoded({"x": np.arange(9)})
    part.sha256 = "0" * 64
    assembly = PartAssembly(part)
    for chunk in split(data):
        assembly.add(chunk)
    with pytest.raises(CorruptData, match="sha256"):
        assembly.finish()
