"""These tests check tensors on the wire: exact where promised, rounded like torch elsewhere."""

import weakref

import numpy as np
import pytest
from weight_samples import encode_part, version_of

from protos import weights_pb2 as pb
from protos.errors import CorruptData
from protos.tensors import Bf16, read_bf16, write_bf16
from services.weights import Limits
from services.weights.wire import CHUNK_BYTES, MemoryPool, PartAssembly, check_version, decode_part, split

LIMITS = Limits(max_part_bytes=1 << 20)


def decoded(part, data):
    return decode_part(part, np.frombuffer(data, np.uint8), MemoryPool())


def to_bf16(values):
    bits = np.empty(values.size, np.uint16)
    assert write_bf16(values.reshape(-1), bits)
    return bits


def from_bf16(bits):
    out = np.empty(bits.size, np.uint32)
    read_bf16(bits, out)
    return out.view(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "int8", "int64", "uint8", "uint32", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 5), (4, 7)])
def test_exact_dtypes_come_back_as_they_were(dtype, shape):
    array = (np.random.default_rng(1).normal(size=shape) * 50).astype(dtype)
    part, data = encode_part("head", {"before": np.ones(3, "u1"), "x": array})
    check_version(version_of(part), LIMITS)
    back = decoded(part, data)["x"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_matrices_travel_as_bf16_and_vectors_as_float32():
    rng = np.random.default_rng(2)
    matrix, vector, wide = rng.normal(size=(8, 9)), rng.normal(size=8), rng.normal(size=(3, 5, 7)).astype(np.float16)
    part, data = encode_part("head", {"w": matrix, "b": vector, "v": wide}, "bf16")
    assert [entry.dtype for entry in part.tensors] == ["float32", "bfloat16", "bfloat16"]
    back = decoded(part, data)
    np.testing.assert_array_equal(back["w"].ravel(), from_bf16(to_bf16(matrix.astype(np.float32))))
    np.testing.assert_array_equal(back["v"].ravel(), from_bf16(to_bf16(wide.astype(np.float32))))
    np.testing.assert_array_equal(back["b"], vector.astype(np.float32))


def test_a_transposed_view_travels_by_value():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    part, data = encode_part("head", {"x": array, "y": Bf16(to_bf16(array.T).reshape(2, 3).T)})
    for back in decoded(part, data).values():
        np.testing.assert_array_equal(back, array)


def test_bits_that_are_bfloat16_already_give_the_bytes_that_rounding_gives():
    values = np.random.default_rng(3).normal(size=(70, 30)).astype(np.float32)
    rounded_here = encode_part("head", {"w": values, "n": np.arange(3)}, "bf16")
    given_as_bits = encode_part("head", {"w": Bf16(to_bf16(values).reshape(70, 30)), "n": np.arange(3)}, "bf16")
    assert given_as_bits == rounded_here


def test_memory_is_used_again_when_nothing_refers_to_it():
    memory = MemoryPool()
    first, second = (memory.take("head", 256) for _ in range(2))
    place = first.ctypes.data
    view = first.view(np.float32)[3:].reshape(-1, 1)
    del first
    third = memory.take("head", 256)
    assert len({array.ctypes.data for array in (second, third, view.base)}) == 3
    exported = memoryview(view)
    del view
    assert memory.take("head", 256).ctypes.data != place
    del exported
    assert memory.take("other", 256).ctypes.data != place
    assert place in {array.ctypes.data for array in [memory.take("head", 256) for _ in range(2)]}
    assert len(memory.take("head", 64)) == 64


def test_a_pool_holds_two_free_arrays():
    memory = MemoryPool()
    held = [memory.take("head", 256) for _ in range(9)]
    many = [weakref.ref(array) for array in held]
    del held
    memory.take("head", 256)
    assert sum(array() is not None for array in many) == 3
    memory.take("head", 999)  # the part has another size now
    assert not any(array() is not None for array in many)


def test_chunks_in_order_make_the_part_again():
    part, data = encode_part("head", {"x": np.arange(CHUNK_BYTES // 2, dtype=np.int32)})
    assembly = PartAssembly(part, MemoryPool())
    for chunk in split(data):
        assembly.add(chunk)
    assert assembly.complete
    assert assembly.data().tobytes() == data


@pytest.mark.parametrize("damage", ["bit", "length", "order"])
def test_a_bad_chunk_changes_nothing(damage):
    part, data = encode_part("head", {"x": np.arange(CHUNK_BYTES // 2, dtype=np.int32)})
    first, second = split(data)
    assembly = PartAssembly(part, MemoryPool())
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
    assert assembly.data().tobytes() == data


def test_bytes_that_are_not_the_announced_ones_fail_at_the_end():
    part, data = encode_part("head", {"x": np.arange(9)})
    part.sha256 = "0" * 64
    assembly = PartAssembly(part, MemoryPool())
    for chunk in split(data):
        assembly.add(chunk)
    with pytest.raises(CorruptData, match="sha256"):
        assembly.data()
