"""TFRecord framing and tf.train.Example, against definitions and against Google's protobuf."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlds_samples import Example, example

from learner.datasets.rlds import example as wire
from learner.datasets.rlds.crc32c import crc32c
from learner.datasets.rlds.example import decode_example, decode_feature, encode_example
from learner.datasets.rlds.tfrecord import framed, masked_crc, read_records
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


def test_crc_of_the_standards_check_string():
    assert crc32c(b"123456789") == 0xE3069283


@given(st.binary(max_size=2000), st.integers(0, 3))
def test_crc_is_its_definition(data, repeats):
    data *= repeats
    assert crc32c(data) == crc_by_definition(data)


def test_crc_of_long_data_is_that_of_its_parts_joined():
    """Across the block that is taken at once: CRC(a + b) from a bytewise continuation of b's few bytes."""
    data = np.random.default_rng(0).integers(0, 256, (4 << 20) + 5, np.uint8).tobytes()
    register = crc32c(data[:-5]) ^ 0xFFFFFFFF
    for byte in data[-5:]:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    assert crc32c(data) == register ^ 0xFFFFFFFF


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
    decoded = decode_example(memoryview(example(features)))
    assert {name: plain(decode_feature(data)) for name, data in decoded.items()} == features


@given(FEATURES)
def test_examples_encode_so_that_protobuf_reads_them(features):
    features = {name: [abs(v) // 2 if isinstance(v, int) else v for v in values] for name, values in features.items()}
    types = {float: np.float32, int: np.int64}
    arrays = {
        name: values if isinstance(values[0], bytes) else np.array(values, types[type(values[0])])
        for name, values in features.items()
    }
    message = Example.FromString(encode_example(arrays))
    read = {name: list(getattr(f, f.WhichOneof("kind")).value) for name, f in message.features.feature.items()}
    assert read == features


def decode_all(data):
    """Nothing but CorruptData may come out of it."""
    with contextlib.suppress(CorruptData):
        for feature in decode_example(memoryview(data)).values():
            decode_feature(feature)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_corrupt(data):
    decode_all(data)


@given(FEATURES, st.data())
def test_a_damaged_example_decodes_or_is_corrupt(features, draw):
    data = bytearray(example(features))
    for _ in range(draw.draw(st.integers(1, 3)) if data else 0):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    decode_all(bytes(data))


def test_numbers_that_were_not_packed_are_read():
    floats = b"".join(b"\x0d" + struct.pack("<f", value) for value in (1.5, -2.0))
    integers = b"\x08\x01\x08\x96\x01"
    assert decode_feature(memoryview(b"\x12" + bytes([len(floats)]) + floats)).tolist() == [1.5, -2.0]
    assert decode_feature(memoryview(b"\x1a" + bytes([len(integers)]) + integers)).tolist() == [1, 150]


def test_an_empty_feature_has_no_values():
    assert decode_feature(memoryview(b"")) == []


def test_a_message_of_endless_empty_fields_is_refused(monkeypatch):
    monkeypatch.setattr(wire, "MAX_FIELDS", 100)
    with pytest.raises(CorruptData, match="more than 100 fields"):
        decode_example(memoryview(b"\x12\x00" * 101))
