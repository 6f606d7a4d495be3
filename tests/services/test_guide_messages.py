"""These tests send configurations as messages: they come back as they were, and nothing else is accepted."""

import math
from contextlib import suppress

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from protos import guide_pb2 as pb
from protos.errors import CorruptData
from protos.schema import Configuration
from services.guide.client import MAX_BODIES, MAX_NAME, from_message, to_message

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(max_size=MAX_NAME)
CONFIGURATIONS = st.builds(
    Configuration,
    region=NAMES,
    cell=st.integers(-1, 2**31 - 1),
    poses=st.dictionaries(NAMES, st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=8),
)
ANY_MESSAGE = st.builds(
    pb.GuideConfiguration,
    region=st.text(max_size=2 * MAX_NAME),
    cell=st.integers(-(2**31), 2**31 - 1),
    poses=st.dictionaries(
        st.text(max_size=2 * MAX_NAME), st.builds(pb.GuidePose, x=st.floats(), yaw=st.floats()), max_size=4
    ),
)


def is_whole(configuration):
    """Checks a configuration as `from_message` promises it."""
    names = (configuration.region, *configuration.poses)
    assert all(len(name) <= MAX_NAME for name in names) and len(configuration.poses) <= MAX_BODIES
    assert all(math.isfinite(number) for pose in configuration.poses.values() for number in pose)


@given(CONFIGURATIONS)
def test_what_goes_in_comes_out(configuration):
    wire = to_message(configuration).SerializeToString()
    assert from_message(pb.GuideConfiguration.FromString(wire)) == configuration


@given(ANY_MESSAGE)
def test_any_message_is_a_configuration_or_corrupt(message):
    try:
        is_whole(from_message(message))
    except CorruptData as error:
        assert "\n" not in str(error) and len(str(error)) < 2000


@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_refused(data):
    with suppress(DecodeError, CorruptData):
        is_whole(from_message(pb.Draw.FromString(data).configuration))


@given(CONFIGURATIONS, st.data())
def test_damaged_bytes_are_a_configuration_or_refused(configuration, data):
    wire = bytearray(pb.Draw(configuration=to_message(configuration), reason="r").SerializeToString())
    place = data.draw(st.integers(0, len(wire) - 1))
    wire[place] ^= data.draw(st.integers(1, 255))
    with suppress(DecodeError, CorruptData):
        is_whole(from_message(pb.Draw.FromString(bytes(wire)).configuration))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (pb.GuideConfiguration(poses={"cube": pb.GuidePose(z=math.inf)}), "pose of 'cube' is not finite"),
        (pb.GuideConfiguration(poses={str(n): pb.GuidePose() for n in range(MAX_BODIES + 1)}), "65 bodies"),
        (pb.GuideConfiguration(region="x" * (MAX_NAME + 1)), "short names"),
    ],
)
def test_why_it_is_refused(message, words):
    with pytest.raises(CorruptData, match=words):
        from_message(message)
