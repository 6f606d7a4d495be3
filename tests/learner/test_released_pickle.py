"""These tests compare the reader that executes nothing with pickle itself."""

import contextlib
import gzip
import io
import os
import pickle
import random
import struct
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.datasets.released.pickles import read_plain
from protos.errors import CorruptData

LIMIT = 1 << 20
ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
VALUES = {
    "array": ARRAY,
    "again": ARRAY,
    "columns first": np.asfortranarray(ARRAY),
    "not contiguous": ARRAY[:, ::-1],
    "big endian": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 3)),
    "no axis": np.array(3.0),
    "half": np.ones(2, np.float16),
    "flags": np.array([True, False]),
    "scalar": np.float64(1.5),
    "flag": np.bool_(True),
    "image": np.zeros((2, 16, 16, 3), np.uint8),
    "plain": [1, -5, 2**70, 2.5, "text", None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), b"", b"bytes"],
    "nested": {"a": {"b": [[], {}]}},
}
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(data, limit=LIMIT):
    return read_plain(io.BytesIO(data), limit)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_and_arrays_of_every_protocol(protocol):
    data = pickle.dumps(VALUES, protocol)
    found, expected = read(data), pickle.loads(data)
    assert found["again"] is found["array"] and list(found) == list(expected)
    for name, value in expected.items():
        assert type(found[name]) is type(value), name
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype, name
        np.testing.assert_equal(found[name], value, err_msg=name)


def test_names_of_numpy_1_are_known():
    data = pickle.dumps(VALUES, 4)
    old = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert old != data
    old = old[:3] + struct.pack("<Q", int.from_bytes(old[3:11], "little") - (len(data) - len(old))) + old[11:]
    np.testing.assert_equal(read(old)["array"], ARRAY)


class JaxArray:
    """The array is pickled as jax does it: numpy's three parts, and one that jax adds."""

    def __reduce__(self):
        return _reconstruct_array, (*ARRAY.__reduce__(), {"weak_type": False})


def _reconstruct_array(function, arguments, state, aval):
    raise AssertionError("only its name is used")


_reconstruct_array.__module__ = "jax._src.array"


def test_arrays_of_jax_are_read_as_numpys(monkeypatch):
    module = type(os)("jax._src.array")
    module._reconstruct_array = _reconstruct_array
    for name in ("jax", "jax._src", "jax._src.array"):
        monkeypatch.setitem(sys.modules, name, module)
    for protocol in PROTOCOLS:
        np.testing.assert_equal(read(pickle.dumps([JaxArray()], protocol)), [ARRAY])


@given(PLAIN, st.sampled_from(PROTOCOLS))
def test_any_plain_value_comes_back(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


class Calls:
    """An object unpickles to the result of a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Own:
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (Calls(os.system, "touch /tmp/executed"), r"import \w+\.system"),
        (Calls(eval, "1 + 1"), r"import \w+\.eval"),
        (Own(), r"import (copyreg\._reconstructor|copy_reg\._reconstructor|test_released_pickle\.Own)"),
        (np.float64, r"import numpy\.float64"),
        (Calls(np.load, "x"), r"import numpy\.load"),
        (np.array([Own()], dtype=object), r"import .*Own|array of type 'O8'"),
        (np.array(["text"]), "array of type 'U4'"),
        (np.zeros(2, [("a", "f4")]), "array of type 'V4'"),
        (Calls(np.ndarray, (2, 2)), "numpy.ndarray"),
        (np.matrix([[1.0]]), r"import numpy.*matrix"),
        ({1: 2}, "keys are not strings"),
        (10, None),
    ],
)
def test_everything_else_is_refused_by_name(value, wanted, protocol):
    data = pickle.dumps(value, protocol)
    if wanted is None:
        assert read(data) == value
        return
    with pytest.raises(CorruptData, match=wanted):
        read(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"(S'echo'\nios\nsystem\n.", "STRING|INST of os system"),
        (b"(ios\nsystem\n.", "INST of os system"),
        (b"(cos\nsystem\no.", "import os.system"),
        (b"Pname\n.", "PERSID"),
        (b"\x82\x01.", "EXT1"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"", "not a pickle"),
        (b"N", "not a pickle"),
        (b"NN.", "2 values are left"),
        (b"(.", "0 values are left"),
        (b"(N\x85.", "values are left"),
        (b"N(\x85.", "too little on the stack"),
        (b"\x85.", "too little on the stack"),
        (b"h\x00.", "damaged"),
        (b"NNa.", "no list"),
        (b"NNNs.", "no dict"),
        (b"N)R.", "no function"),
        (b"Nb.", "too little on the stack"),
        (b"NNb.", "neither an array nor a type"),
        (b"cnumpy\ndtype\n)R.", "damaged"),
        (b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4I00\nI01\ntR(I3\nX\x01\x00\x00\x00<N(NtNI-1\nI-1\nI0\ntb.", None),
        (b"\x8e" + struct.pack("<Q", 1 << 62) + b"abc.", "damaged"),
        (b"\x8e" + struct.pack("<Q", 1 << 63) + b"abc.", "damaged"),
        (b"\x8b" + struct.pack("<i", 1 << 30) + b"abc.", "damaged"),
        (b"I" + b"9" * 5000 + b"\n.", "damaged"),
    ],
)
def test_hostile_programs(data, message):
    if message is None:
        read(data)
        return
    with pytest.raises(CorruptData, match=message):
        read(data)


def test_a_shape_that_its_bytes_do_not_fill_is_refused():
    data = bytearray(pickle.dumps(np.zeros((100, 77), np.uint8), 4))
    at = data.index(bytes([ord("K"), 100, ord("K"), 77]))
    data[at + 1] = 101
    with pytest.raises(CorruptData, match=r"shape \(101, 77\) and type uint8 in 7700 bytes"):
        read(bytes(data))


def test_memory_is_limited_even_where_the_file_is_small():
    packed = gzip.compress(pickle.dumps(bytes(50 << 20)))
    assert len(packed) < 100_000
    with gzip.open(io.BytesIO(packed)) as file, pytest.raises(CorruptData, match=f"limit_bytes={LIMIT}"):
        read_plain(file, LIMIT)
    with pytest.raises(CorruptData, match=f"limit_bytes={LIMIT}"):
        read(b"]" * 50_000 + b".")


def test_damaged_pickles_decode_or_are_corrupt():
    """Random bytes are changed in pickles of every protocol; nothing but CorruptData may be raised."""
    dice = random.Random(0)
    originals = [pickle.dumps(VALUES, protocol) for protocol in PROTOCOLS]
    outcomes = set()
    for turn in range(1000):
        data = bytearray(originals[turn % len(originals)])
        for _ in range(dice.randint(1, 3)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            read(bytes(data))
            outcomes.add("read")
        except CorruptData:
            outcomes.add("corrupt")
    assert outcomes == {"read", "corrupt"}


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_are_corrupt(data):
    with contextlib.suppress(CorruptData):
        read(data + b".")
