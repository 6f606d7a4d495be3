"""This module encodes versions as a publisher does."""

import numpy as np

from protos import weights_pb2 as pb
from protos.tensors import part_table, write_part


def encode_part(name, tensors, wire="f32"):
    """Returns the table, sha256 included, and the bytes of a part."""
    table = part_table(name, tensors, wire)
    data = np.empty(table.size, np.uint8)
    assert write_part(table, tensors, data) == ""
    return table, data.tobytes()


def version_of(*parts, number=1):
    return pb.WeightVersion(number=number, published_unix_s=number, settings_json="{}", parts=parts)
