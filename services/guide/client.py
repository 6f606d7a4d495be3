"""This module asks the guide: blocking calls with a deadline, and configurations to and from messages."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

import grpc

from protos import guide_pb2 as pb
from protos.errors import CorruptData
from protos.guide_pb2_grpc import GuideStub
from protos.schema import Configuration, Outcome
from services.guide.schedule import CellSuccess
from services.net import LOOPBACK, Credentials, open_channel, unreachable

DEADLINE_S = 5.0
MAX_BODIES = 64
MAX_NAME = 128
"""Most characters in the name of a region or a body."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A drawn configuration and, in one line, why it was drawn."""

    configuration: Configuration
    reason: str


class Episode(Protocol):
    """A finished episode, as far as the guide counts it."""

    @property
    def configuration(self) -> Configuration: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def steps(self) -> int: ...
    @property
    def human_steps(self) -> int: ...
    @property
    def version(self) -> int: ...


class GuideClient:
    """Asks the guide at `address`. Calls wait up to 5 s for a guide that is restarting.

    A call whose answer is lost is asked again: another draw does no harm, and the guide knows a repeated report by its
    id. Every call raises Unreachable after the deadline, and InputError for what the guide refuses.
    """

    def __init__(self, address: str, *, credentials: Credentials = LOOPBACK, deadline_s: float = DEADLINE_S) -> None:
        self.address, self._deadline_s = address, deadline_s
        self._channel = open_channel(address, credentials)
        self._stub = GuideStub(self._channel)  # type: ignore[no-untyped-call]

    def draw(self, *, deadline_s: float | None = None) -> Draw:
        """Returns the next initial configuration with the reason for it. Raises CorruptData for an impossible one."""
        return _draw(self._call(self._stub.Next, pb.NextRequest(), deadline_s))

    def next(self) -> Configuration:
        """Returns the next initial configuration."""
        return self.draw().configuration

    def next_scan(self) -> Configuration | None:
        """Returns the next start for a scanning twin; None while no cell is due."""
        reply = self._call(self._stub.NextScan, pb.ScanRequest())
        return from_message(reply.configuration) if reply.HasField("configuration") else None

    def report(
        self, result: Episode, *, twin: bool = False, report_id: str = "", deadline_s: float | None = None
    ) -> None:
        """Counts a finished episode of the arm, or of a scanning `twin`; human steps make it the policy's failure.

        A report that is made again needs the same `report_id`, so that it counts once; by default a new one.
        """
        message = pb.EpisodeReport(
            configuration=to_message(result.configuration),
            outcome=result.outcome.value,
            steps=result.steps,
            human_steps=result.human_steps,
            version=result.version,
            id=report_id or uuid4().hex,
            twin=twin,
        )
        self._call(self._stub.Report, message, deadline_s)

    def set_success(self, evaluation: Mapping[int, tuple[int, int]], *, version: int = -1) -> None:
        """Replaces the twin's (successes, rollouts) of the cells named, except where a newer version was tried."""
        cells = {
            cell: pb.TwinEvaluation.Cell(successes=won, rollouts=rollouts)
            for cell, (won, rollouts) in evaluation.items()
        }
        self._call(self._stub.SetSuccess, pb.TwinEvaluation(cells=cells, version=version))

    def success_map(self, *, deadline_s: float | None = None) -> list[CellSuccess]:
        """Returns all cells in order."""
        reply = self._call(self._stub.SuccessMap, pb.SuccessMapRequest(), deadline_s)
        names = CellSuccess.__dataclass_fields__
        return [CellSuccess(**{name: getattr(cell, name) for name in names}) for cell in reply.cells]

    def last_draw(self) -> Draw | None:
        """Returns the newest draw of any client, where the operator puts the object; None before the first."""
        reply = self._call(self._stub.SuccessMap, pb.SuccessMapRequest())
        return _draw(reply.last) if reply.HasField("last") else None

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: Callable[..., Any], request: Any, deadline_s: float | None = None) -> Any:
        deadline_s = deadline_s or self._deadline_s
        try:
            return method(request, timeout=deadline_s, wait_for_ready=True)
        except grpc.RpcError as error:
            raise unreachable("guide", self.address, error, deadline_s) from error


def _draw(message: pb.Draw) -> Draw:
    return Draw(configuration=from_message(message.configuration), reason=message.reason)


def to_message(configuration: Configuration) -> pb.GuideConfiguration:
    """Returns a configuration as a message."""
    poses = {name: pb.GuidePose(x=x, y=y, z=z, yaw=yaw) for name, (x, y, z, yaw) in configuration.poses.items()}
    return pb.GuideConfiguration(region=configuration.region, cell=configuration.cell, poses=poses)


def from_message(message: pb.GuideConfiguration) -> Configuration:
    """Returns the configuration in a message.

    Raises CorruptData for poses that are not finite, and for more or longer names than any task has.
    """
    if len(message.poses) > MAX_BODIES or any(len(name) > MAX_NAME for name in (message.region, *message.poses)):
        raise CorruptData(f"a configuration of {len(message.poses)} bodies: at most {MAX_BODIES}, short names")
    poses = {name: (pose.x, pose.y, pose.z, pose.yaw) for name, pose in message.poses.items()}
    for name, pose in poses.items():
        if not all(map(math.isfinite, pose)):
            raise CorruptData(f"pose of {name!r} is not finite: {pose}")
    return Configuration(region=message.region, cell=message.cell, poses=poses)
