"""These tests compare TFRecord framing with its definition, and tf.train.Example with another one of protobuf."""

import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlds_samples import Example, example

from learner.datasets.rlds import records
from learner.datasets.rlds.records import decode_example, encode_example, framed, masked_crc, read_records, values_of
from protos.errors import CorruptData

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(width=32, allow_nan=False)
VALUES = st.one_of(
    st.lists(st.binary(max_size=20), min_size=1), st.lists(FLOATS, min_size=1), st.lists(INT64, min_size=1)
)
FEATURES = st.dictionaries(st.text(max_size=8), VALUES, max_size=5)


def crc_by_definition(data):
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def masked(crc):
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_the_check_of_the_standards_string():
    assert masked_crc(b"123456789") == masked(0xE3069283)


@given(st.binary(max_size=2000), st.integers(0, 3))
def test_the_check_is_its_definition(data, repeats):
    data *= repeats
    assert masked_crc(data) == masked(crc_by_definition(data))


def write(path, *payloads):
    path.write_bytes(b"".join(framed(payload) for payload in payloads))
    return path


def test_records_come_back_with_their_place(tmp_path):
    path = write(tmp_path / "a", b"one", b"", b"three")
    assert [(bytes(r.payload), r.offset, r.end) for r in read_records(path)] == [
        (b"one", 0, 19),
        (b"", 19, 35),
        (b"three", 35, 56),
    ]


@pytest.mark.parametrize("kept", range(20, 39))
def test_a_torn_record_is_named_with_its_offset(tmp_path, kept):
    path = write(tmp_path / "a", b"one", b"three")
    path.write_bytes(path.read_bytes()[:kept])
    records = read_records(path)
    assert bytes(next(records).payload) == b"one"
    with pytest.raises(CorruptData, match=f"{path}: record at byte 19: "):
        next(records)


@given(st.integers(0, 8 * 40 - 1))
def test_every_flipped_bit_is_noticed(tmp_path_factory, bit):
    path = tmp_path_factory.mktemp("flip") / "a"
    data = bytearray(framed(b"one") + framed(b"three"))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    with pytest.raises(CorruptData, match="record at byte"):
        list(read_records(path))


@pytest.mark.parametrize("length", [1 << 62, 2**31, 1 << 20])
def test_a_length_that_cannot_be_is_refused_before_anything_is_allocated(tmp_path, length):
    header = struct.pack("<Q", length)
    path = tmp_path / "a"
    path.write_bytes(header + struct.pack("<I", masked_crc(header)) + b"x" * 100)
    with pytest.raises(CorruptData, match=str(length)):
        next(read_records(path))


def plain(values):
    return values.tolist() if isinstance(values, np.ndarray) else [bytes(value) for value in values]


@given(FEATURES)
def test_examples_decode_as_protobuf_wrote_them(features):
    decoded = decode_example(example(features))
    assert {name: plain(values_of(feature)) for name, feature in decoded.items()} == features


@given(FEATURES)
def test_examples_encode_so_that_protobuf_reads_them(features):
    types = {float: np.float32, int: np.int64}
    arrays = {
        name: values if isinstance(values[0], bytes) else np.array(values, types[type(values[0])])
        for name, values in features.items()
    }
    message = Example.FromString(encode_example(arrays))
    read = {name: list(getattr(f, f.WhichOneof("kind")).value) for name, f in message.features.feature.items()}
    assert read == features


def decode_all(data):
    """Decodes every feature; nothing but CorruptData may be raised."""
    with contextlib.suppress(CorruptData):
        for feature in decode_example(data).values():
            values_of(feature)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_corrupt(data):
    decode_all(data)


@given(FEATURES, st.data())
def test_a_damaged_example_decodes_or_is_corrupt(features, draw):
    data = bytearray(example(features))
    for _ in range(draw.draw(st.integers(1, 3)) if data else 0):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    decode_all(bytes(data))


def feature(data):
    """Returns the feature `n` of an Example, from the bytes of a Feature."""

    def field(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    return decode_example(field(1, field(1, field(1, b"n") + field(2, data))))["n"]


def test_numbers_that_were_not_packed_are_read():
    floats = b"".join(b"\x0d" + struct.pack("<f", value) for value in (1.5, -2.0))
    integers = b"\x08\x01\x08\x96\x01"
    assert values_of(feature(b"\x12" + bytes([len(floats)]) + floats)).tolist() == [1.5, -2.0]
    assert values_of(feature(b"\x1a" + bytes([len(integers)]) + integers)).tolist() == [1, 150]


def test_an_empty_feature_has_no_values():
    assert values_of(feature(b"")) == []


def test_a_feature_of_endless_empty_values_is_refused(monkeypatch):
    monkeypatch.setattr(records, "MAX_VALUES", 50)
    assert values_of(feature(b"\x0a\x64" + b"\x0a\x00" * 50)) == [b""] * 50
    with pytest.raises(CorruptData, match="a feature of 51 values; at most 50 are read"):
        values_of(feature(b"\x0a\x66" + b"\x0a\x00" * 51))


def test_fields_that_an_example_does_not_have_take_no_more_memory_than_in_the_file():
    data = b"\x12\x00" * 500_000
    tracemalloc.start()
    try:
        assert not decode_example(data)
        assert tracemalloc.get_traced_memory()[1] < len(data)
    finally:
        tracemalloc.stop()
