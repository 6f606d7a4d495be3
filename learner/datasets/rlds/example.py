"""`tf.train.Example` to numbers and back, without tensorflow.

    Example.features = 1 ─► Features.feature = 1 ─► {name: Feature}
    Feature: bytes_list = 1 | float_list = 2 | int64_list = 3, each with `repeated value = 1`

An Example is taken apart only as far as it is asked for: pictures that nobody wants stay where they are, and those that
are wanted are views of the record.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protos.errors import CorruptData
from protos.schema import F32

I64 = NDArray[np.int64]
Values = list[memoryview] | F32 | I64
"""Of one feature: bytes, floats or integers."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_LONGEST_VARINT = 10
MAX_FIELDS = 1 << 17
"""Of one message, and so of the steps of an episode: hours. An empty field takes two bytes in the file and a hundred in
memory."""


def decode_example(data: memoryview) -> dict[str, memoryview]:
    """The features of an Example by name, each still encoded. Raises CorruptData."""
    found: dict[str, memoryview] = {}
    for features in _messages(data, 1):
        for entry in _messages(features, 1):
            name = b"".join(_messages(entry, 1))
            try:
                found[str(name, "utf-8")] = next(iter(list(_messages(entry, 2))[-1:]), memoryview(b""))
            except UnicodeDecodeError as error:
                raise CorruptData(f"a feature whose name is not UTF-8: {name[:40]!r}") from error
    return found


def decode_feature(data: memoryview) -> Values:
    """The values of one feature; an empty list when it has none. Raises CorruptData."""
    kind, lists = 0, [memoryview(b"")]
    for number, wire, value in _fields(data):
        if number in {_BYTES_LIST, _FLOAT_LIST, _INT64_LIST} and wire == _BYTES:
            if number != kind:
                kind, lists = number, []
            lists.append(value)
    if kind == _FLOAT_LIST:
        return np.concatenate([_floats(each) for each in lists])
    if kind == _INT64_LIST:
        return np.concatenate([_integers(each) for each in lists])
    return [value for each in lists for value in _messages(each, 1)]


def encode_example(features: Mapping[str, Sequence[bytes] | F32 | I64]) -> bytes:
    """An Example of the features; integers must not be negative."""
    entries = []
    for name, values in features.items():
        feature = _encode_feature(values)
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def _encode_feature(values: Sequence[bytes] | F32 | I64) -> bytes:
    if not isinstance(values, np.ndarray):
        return _field(_BYTES_LIST, b"".join(_field(1, value) for value in values))
    if values.dtype == np.float32:
        return _field(_FLOAT_LIST, _field(1, values.astype("<f4").tobytes()))
    assert values.dtype == np.int64 and (values >= 0).all()
    return _field(_INT64_LIST, _field(1, b"".join(_varint(int(value)) for value in values)))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _floats(data: memoryview) -> F32:
    parts = []
    for number, wire, value in _fields(data):
        if number == 1 and wire in {_BYTES, _FIXED32}:
            if len(value) % 4:
                raise CorruptData(f"a list of floats in {len(value)} bytes, which is no multiple of 4")
            parts.append(np.frombuffer(value, "<f4"))
    return np.concatenate([np.empty(0, np.float32), *parts])


def _integers(data: memoryview) -> I64:
    values = [value for number, wire, value in _fields(data) if number == 1 and wire in {_BYTES, _VARINT}]
    return np.concatenate([np.empty(0, np.int64), *map(_varints, values)])


def _varints(data: memoryview) -> I64:
    """Packed variable-length integers, seven bits per byte, the low ones first."""
    coded = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(coded < 0x80)
    if len(ends) == len(coded):
        return coded.astype(np.int64)
    if not len(ends) or ends[-1] != len(coded) - 1:
        raise CorruptData("a list of integers that ends inside one")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_VARINT:
        raise CorruptData(f"an integer of {lengths.max()} bytes; at most {_LONGEST_VARINT} make sense")
    shift = 7 * (np.arange(len(coded)) - np.repeat(starts, lengths)).astype(np.uint64)
    return np.bitwise_or.reduceat((coded & np.uint8(0x7F)).astype(np.uint64) << shift, starts).view(np.int64)


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """The contents of a message's length-delimited fields of one number."""
    return (value for number, wire, value in _fields(data) if number == wanted and wire == _BYTES)


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Number, wire type and bytes of each field of a message; of a varint, its bytes."""
    at = count = 0
    while at < len(data):
        count += 1
        if count > MAX_FIELDS:
            raise CorruptData(f"a protobuf message of more than {MAX_FIELDS} fields")
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not number:
            raise CorruptData("a protobuf field with number 0")
        start = at
        if wire == _BYTES:
            length, start = _read_varint(data, at)
            at = start + length
        elif wire == _VARINT:
            _, at = _read_varint(data, at)
        elif wire in {_FIXED32, _FIXED64}:
            at += 4 if wire == _FIXED32 else 8
        else:
            raise CorruptData(f"a protobuf field of wire type {wire}")
        if at > len(data):
            raise CorruptData(f"a protobuf field that ends {at - len(data)} bytes behind its message")
        yield number, wire, data[start:at]


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Value, and where the next byte is."""
    value = 0
    for count, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, at + count + 1
    raise CorruptData("a protobuf length that does not end")
