"""These tests check that hostile messages are refused by name before anything is allocated for them."""

import asyncio
import json
import tracemalloc
import zlib

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service_process import ServiceProcess
from weight_samples import encode_part, version_of

from protos import weights_pb2 as pb
from protos.errors import CorruptData, InputError
from protos.tensors import WIRE_DTYPES
from protos.weights_pb2_grpc import WeightsStub
from services.weights import Limits
from services.weights.server import WeightsService
from services.weights.store import VersionStore
from services.weights.wire import MAX_TENSORS, MemoryPool, PartAssembly, check_version, decode_part, split

LIMITS = Limits(max_part_bytes=1 << 16, max_version_bytes=1 << 17)
SHA = "0" * 64
TIMEOUT_S = 60


def table(**changes):
    entry = {"name": "w", "dtype": "float32", "shape": [4], "offset": 0} | changes.pop("entry", {})
    part = {"name": "head", "sha256": SHA, "size": 16, "tensors": [pb.TensorEntry(**entry)]} | changes
    return version_of(pb.WeightPart(**part))


def overlapping():
    entries = [pb.TensorEntry(name=f"w{i}", dtype="bfloat16", shape=[1 << 14]) for i in range(2)]
    return version_of(pb.WeightPart(name="head", sha256=SHA, size=1 << 16, tensors=entries))


def corrupt_tables():
    return {
        "no parts": version_of(),
        "no number": version_of(pb.WeightPart(name="head", sha256=SHA), number=0),
        "part named twice": version_of(*(pb.WeightPart(name="head", sha256=SHA) for _ in range(2))),
        "one sha256, two sizes": version_of(*(pb.WeightPart(name=str(i), sha256=SHA, size=i) for i in range(2))),
        "one sha256, two tables": version_of(
            *(
                pb.WeightPart(
                    name=name, sha256=SHA, size=1, tensors=[pb.TensorEntry(name=name, dtype="bool", shape=[1])]
                )
                for name in ("a", "b")
            )
        ),
        "tensor named twice": version_of(
            pb.WeightPart(name="head", sha256=SHA, tensors=[pb.TensorEntry(name="w", dtype="bool", shape=[0])] * 2)
        ),
        "unknown dtype": table(entry={"dtype": "object"}),
        "tensor beyond the part": table(entry={"shape": [5]}),
        "tensors on one another": overlapping(),
        "product overflows 64 bits": table(entry={"shape": [2**63, 2**63]}),
        "dimensions beyond counting": table(entry={"shape": [2**63] * 5000}),
        "offset not aligned": table(entry={"shape": [1], "offset": 4}),
        "sha256 is a path": table(sha256="../../etc/passwd".ljust(64, "x")),
        "settings not JSON": pb.WeightVersion(number=1, settings_json="{", parts=table().parts),
        "settings no object": pb.WeightVersion(number=1, settings_json="[]", parts=table().parts),
        "settings without bottom": pb.WeightVersion(number=1, settings_json="[" * 200_000, parts=table().parts),
        "published at no time": pb.WeightVersion(
            number=1, settings_json="{}", parts=table().parts, published_unix_s=float("nan")
        ),
    }


@pytest.mark.parametrize("what", corrupt_tables())
def test_a_damaged_table_is_refused_in_one_line(what):
    with pytest.raises(CorruptData) as refused:
        check_version(corrupt_tables()[what], LIMITS)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_length_of_4_gib_is_refused_by_name():
    with pytest.raises(InputError, match=f"part 'head' has {1 << 32} bytes; the limit is max_part_bytes={1 << 16}"):
        check_version(table(size=1 << 32), LIMITS)
    parts = [pb.WeightPart(name=str(i), sha256=f"{i:064x}", size=1 << 16) for i in range(3)]
    with pytest.raises(InputError, match=f"{3 << 16} bytes; the limit is max_version_bytes={1 << 17}"):
        check_version(version_of(*parts), LIMITS)
    many = [pb.TensorEntry(name=str(i), dtype="bool", shape=[0]) for i in range(MAX_TENSORS + 1)]
    with pytest.raises(InputError, match=f"tensors; the limit is {MAX_TENSORS}"):
        check_version(version_of(pb.WeightPart(name="head", sha256=SHA, tensors=many)), LIMITS)
    long = pb.WeightVersion(number=1, settings_json=json.dumps({"x": "x" * (1 << 20)}), parts=table().parts)
    with pytest.raises(InputError, match="characters of settings"):
        check_version(long, LIMITS)


def test_an_impossible_shape_of_no_elements_is_corrupt():
    part = pb.WeightPart(name="head", sha256=SHA, tensors=[pb.TensorEntry(name="w", dtype="float32")])
    part.tensors[0].shape[:] = [0, 2**63, 2**63]
    check_version(version_of(part), LIMITS)
    with pytest.raises(CorruptData):
        decode_part(part, np.empty(0, np.uint8), MemoryPool())


uint64 = st.one_of(st.integers(0, 200), st.integers(0, 2**64 - 1), st.sampled_from([1 << 16, 1 << 32, 2**63]))
entries = st.builds(
    pb.TensorEntry,
    name=st.text(max_size=4),
    dtype=st.one_of(st.sampled_from(sorted(WIRE_DTYPES)), st.text(max_size=9)),
    shape=st.one_of(st.lists(st.integers(0, 8), max_size=4), st.lists(uint64, max_size=70)),
    offset=st.one_of(st.integers(0, 9).map(lambda i: 64 * i), uint64),
)
tables = st.builds(
    pb.WeightPart,
    name=st.text(max_size=4),
    sha256=st.one_of(st.integers(0, 9).map(lambda i: f"{i:064x}"), st.text(max_size=70)),
    size=uint64,
    tensors=st.lists(entries, max_size=4),
)
versions = st.builds(
    pb.WeightVersion,
    number=uint64,
    published_unix_s=st.floats(),
    settings_json=st.one_of(st.just("{}"), st.text(max_size=20)),
    parts=st.lists(tables, max_size=3),
)
chunks = st.builds(
    lambda offset, data, good: pb.WeightChunk(offset=offset, data=data, crc32=zlib.crc32(data) if good else 7),
    offset=uint64,
    data=st.binary(max_size=300),
    good=st.booleans(),
)


def peak_of(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(versions, st.data())
@settings(max_examples=200, deadline=None)
def test_any_table_is_refused_or_decodes_within_its_limits(version, data):
    def work():
        try:
            check_version(version, LIMITS)
            for part in version.parts:
                decode_part(part, np.zeros(part.size, np.uint8), MemoryPool())
        except (CorruptData, InputError) as error:
            assert len(str(error)) < 2000

    assert peak_of(work) < 4 * LIMITS.max_version_bytes


@given(st.integers(0, 300), st.lists(chunks, max_size=6))
@settings(max_examples=80, deadline=None)
def test_any_chunks_make_the_part_or_are_refused(size, stream):
    assembly = PartAssembly(pb.WeightPart(name="head", size=size, sha256=SHA), MemoryPool())
    for chunk in stream:
        before = assembly.received
        try:
            assembly.add(chunk)
        except CorruptData:
            assert assembly.received == before
    if assembly.complete:
        with pytest.raises(CorruptData):
            assembly.data()


class Refused(Exception):
    """Is raised by `abort`, as a real context does."""


class Context:
    async def abort(self, code, details):
        assert isinstance(code, grpc.StatusCode)
        assert "\n" not in details
        raise Refused(code)


def requests():
    part, data = encode_part("head", {"w": np.arange(40, dtype=np.float32)})
    good = [pb.PublishRequest(version=version_of(part))]
    good += [
        pb.PublishRequest(part_chunk=pb.PublishRequest.PartChunk(sha256=part.sha256, chunk=chunk))
        for chunk in split(data)
    ]
    part_chunks = st.builds(pb.PublishRequest.PartChunk, sha256=st.sampled_from([SHA, part.sha256]), chunk=chunks)
    return st.lists(
        st.one_of(
            st.sampled_from(good),
            st.builds(lambda version: pb.PublishRequest(version=version), versions),
            st.builds(lambda part_chunk: pb.PublishRequest(part_chunk=part_chunk), part_chunks),
        ),
        max_size=5,
    )


def test_any_stream_of_requests_is_taken_whole_or_refused(tmp_path):
    store = VersionStore(tmp_path, limits=LIMITS)

    async def send(stream):
        async def messages():
            for message in stream:
                yield message.SerializeToString()

        service = WeightsService(store, limits=LIMITS)
        try:
            taken = await service.publish(messages(), Context())
            assert taken.number == stream[0].version.number
        except Refused:
            pass

    @given(requests())
    @settings(max_examples=60, deadline=None)
    def check(stream):
        asyncio.run(send(stream))

    check()


def test_bytes_that_are_no_message_leave_the_server_alive(tmp_path):
    with (
        ServiceProcess("services.weights", tmp_path, "--store", str(tmp_path / "store")) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        raw = channel.stream_unary("/twinrl.v1.Weights/Publish")
        for rubbish in (b"\xff" * 9, b"\x0a\xff\xff\xff\xff\x0f", b""):
            with pytest.raises(grpc.RpcError) as refused:
                raw(iter([rubbish]), timeout=TIMEOUT_S)
            assert refused.value.code() is grpc.StatusCode.DATA_LOSS
        huge = table(size=1 << 32)
        with pytest.raises(grpc.RpcError, match="max_part_bytes"):
            raw(iter([pb.PublishRequest(version=huge).SerializeToString()]), timeout=TIMEOUT_S)
        status = WeightsStub(channel).Status(pb.WeightsStatusRequest(), timeout=TIMEOUT_S)
        assert not status.HasField("newest")
    assert "Traceback" not in server.log.read_text()
