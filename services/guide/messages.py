"""Configurations to and from wire messages."""

import math

from protos import guide_pb2 as pb
from protos.errors import CorruptData
from protos.schema import Configuration

MAX_BODIES = 64
MAX_NAME = 128
"""Characters in the name of a region or a body."""


def to_message(configuration: Configuration) -> pb.GuideConfiguration:
    poses = {name: pb.GuidePose(x=x, y=y, z=z, yaw=yaw) for name, (x, y, z, yaw) in configuration.poses.items()}
    return pb.GuideConfiguration(region=configuration.region, cell=configuration.cell, poses=poses)


def from_message(message: pb.GuideConfiguration) -> Configuration:
    """Raises CorruptData for poses that are not finite, and for more or longer names than any task has."""
    if len(message.poses) > MAX_BODIES or any(len(name) > MAX_NAME for name in (message.region, *message.poses)):
        raise CorruptData(f"a configuration of {len(message.poses)} bodies: at most {MAX_BODIES}, short names")
    poses = {name: (pose.x, pose.y, pose.z, pose.yaw) for name, pose in message.poses.items()}
    for name, pose in poses.items():
        if not all(map(math.isfinite, pose)):
            raise CorruptData(f"pose of {name!r} is not finite: {pose}")
    return Configuration(region=message.region, cell=message.cell, poses=poses)
