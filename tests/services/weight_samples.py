"""Versions as a publisher encodes them."""

from protos import weights_pb2 as pb
from services.weights.memory import MemoryPool
from services.weights.snapshot import PartPlan, PartSnapshot


def encode_part(name, tensors, wire="f32"):
    """The table, sha256 included, and the bytes of a part."""
    encoded = PartSnapshot(PartPlan(name, tensors, wire), MemoryPool()).encode(MemoryPool())
    return encoded.table, encoded.data.tobytes()


def version_of(*parts, number=1):
    return pb.WeightVersion(number=number, published_unix_s=number, settings_json="{}", parts=parts)
