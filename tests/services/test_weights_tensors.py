"""Tensors on the wire: exact where promised, rounded like torch elsewhere."""

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from weight_samples import encode_part, version_of

from protos import weights_pb2 as pb
from protos.errors import CorruptData, InputError
from services.weights import Bf16, Limits
from services.weights.bf16 import read_bf16, write_bf16
from services.weights.chunks import CHUNK_BYTES, PartAssembly, split
from services.weights.memory import MemoryPool
from services.weights.snapshot import PartPlan, PartSnapshot
from services.weights.tables import check_version
from services.weights.tensors import decode_part

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
    assert [entry.dtype for entry in part.tensors] == ["bfloat16", "float32", "bfloat16"]
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


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("wire", ["f32", "bf16"])
def test_weights_that_are_not_numbers_are_not_encoded(bad, wire):
    values = np.zeros((400, 1000), np.float32)
    values[399, 7] = bad
    with pytest.raises(InputError, match="head/w holds NaN or infinity"):
        encode_part("head", {"w": values}, wire)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    with pytest.raises(InputError, match="head/w holds NaN or infinity"):
        encode_part("head", {"w": Bf16(bits)})


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F7F8000, 0x7F7FFFFF])
def test_rounding_hides_neither_a_nan_nor_an_overflow(bits):
    values = np.full((1, 1), bits, np.uint32).view(np.float32)
    with pytest.raises(InputError, match="what bfloat16 cannot hold"):
        encode_part("head", {"w": values}, "bf16")


def test_objects_do_not_travel():
    with pytest.raises(InputError, match="head/w: dtype object cannot travel"):
        PartPlan("head", {"w": np.array([{}])}, "f32")
    with pytest.raises(InputError, match="uint16 bits, got float32"):
        Bf16(np.zeros(3, np.float32))


def test_a_snapshot_holds_what_was_there():
    memory, mine = MemoryPool(), np.ones((300, 1), np.float32)
    first = PartSnapshot(PartPlan("head", {"w": mine}, "f32"), memory)
    mine[:] = 2
    second = PartSnapshot(PartPlan("head", {"w": mine}, "f32"), memory)
    mine[:] = 3
    for snapshot, value in ((first, 1), (second, 2)):
        encoded = snapshot.encode(memory)
        assert snapshot.encode(memory) is encoded
        assert (decoded(encoded.table, encoded.data)["w"] == value).all()


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
