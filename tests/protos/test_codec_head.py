"""These tests read and check the head of a segment without its frames."""

from dataclasses import fields

import numpy as np
import pytest
from test_codec import SCHEMA, encode, make, same

from protos.codec import check_blob, decode_head, decode_segment, read_header, read_prefix
from protos.errors import CorruptData, SchemaMismatch
from protos.images import CODECS

pytestmark = pytest.mark.parametrize("codec", CODECS)


@pytest.fixture
def blob(codec) -> bytes:
    return encode(make(np.random.default_rng(8)), codec=codec)


@pytest.fixture
def head(blob) -> bytes:
    return blob[: read_prefix(blob).head]


def decode_all(data: bytes) -> None:
    decode_segment(data, SCHEMA)


def test_a_head_alone_is_as_good_as_the_blob_for_all_but_frames(blob, head):
    assert read_header(head) == read_header(blob) == check_blob(blob)
    (_, alone), (_, whole) = (decode_head(data, SCHEMA) for data in (head, blob))
    for left, right in ((alone, whole), (alone.observation, whole.observation)):
        for field in fields(left):
            one, other = getattr(left, field.name), getattr(right, field.name)
            if isinstance(one, np.ndarray):
                same(one, other)
            elif field.name != "observation":
                assert one == other
    for decode in (decode_all, check_blob):
        with pytest.raises(CorruptData, match=r"0 bytes of frames, \d+ promised"):
            decode(head)


def test_every_flipped_byte_of_a_head_is_noticed(head):
    for position in range(len(head)):
        damaged = bytearray(head)
        damaged[position] ^= 0x41
        with pytest.raises((CorruptData, SchemaMismatch)):
            decode_head(bytes(damaged), SCHEMA)


def test_only_a_head_or_a_blob_is_taken(blob, head):
    for length in (0, 27, len(head) - 1, len(head) + 1, len(blob) - 1):
        with pytest.raises(CorruptData):
            decode_head(blob[:length], SCHEMA)


def test_damaged_frames_are_noticed_by_those_who_read_them(blob):
    damaged = blob[:-5] + bytes([blob[-5] ^ 1]) + blob[-4:]
    assert decode_head(damaged, SCHEMA)[0].steps == 5
    for decode in (decode_all, check_blob):
        with pytest.raises(CorruptData, match="frames have another checksum"):
            decode(damaged)
