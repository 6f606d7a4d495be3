"""Configurations to and from wire messages."""

from protos import guide_pb2 as pb
from protos.schema import Configuration


def to_message(configuration: Configuration) -> pb.GuideConfiguration:
    poses = {name: pb.GuidePose(x=x, y=y, z=z, yaw=yaw) for name, (x, y, z, yaw) in configuration.poses.items()}
    return pb.GuideConfiguration(region=configuration.region, cell=configuration.cell, poses=poses)


def from_message(message: pb.GuideConfiguration) -> Configuration:
    poses = {name: (pose.x, pose.y, pose.z, pose.yaw) for name, pose in message.poses.items()}
    return Configuration(region=message.region, cell=message.cell, poses=poses)
