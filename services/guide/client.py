"""The guide as actors and evaluations see it: blocking calls with a deadline, one line when nobody answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

import grpc

from protos import guide_pb2 as pb
from protos.guide_pb2_grpc import GuideStub
from protos.schema import Configuration, Outcome
from services.guide.messages import from_message, to_message
from services.guide.schedule import CellSuccess
from services.net import LOOPBACK, Credentials, open_channel, unreachable

DEADLINE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A drawn configuration and, in one line, why it was drawn."""

    configuration: Configuration
    reason: str


class Episode(Protocol):
    """What the guide wants to know of a finished episode."""

    @property
    def configuration(self) -> Configuration: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def human_steps(self) -> int: ...
    @property
    def version(self) -> int: ...


class GuideClient:
    """Talks to the guide at `address`. Calls wait up to 5 s for a guide that is restarting.

    A call whose answer is lost is asked again: another draw does no harm, and a report has an id by which the guide
    knows it. Every call raises Unreachable after the deadline, and InputError for what the guide refuses.
    """

    def __init__(self, address: str, *, credentials: Credentials = LOOPBACK, deadline_s: float = DEADLINE_S) -> None:
        self.address, self._deadline_s = address, deadline_s
        self._channel = open_channel(address, credentials)
        self._stub = GuideStub(self._channel)  # type: ignore[no-untyped-call]

    def draw(self) -> Draw:
        """The next initial configuration with the reason for it. Raises CorruptData for one that cannot be."""
        return _draw(self._call(self._stub.Next, pb.NextRequest()))

    def next(self) -> Configuration:
        """The next initial configuration."""
        return self.draw().configuration

    def report(self, result: Episode) -> None:
        """Counts a finished real episode; one with human steps is a failure of the policy."""
        self._call(
            self._stub.Report,
            pb.EpisodeReport(
                configuration=to_message(result.configuration),
                outcome=result.outcome.value,
                human_steps=result.human_steps,
                version=result.version,
                id=uuid4().hex,
            ),
        )

    def set_success(self, scan: Mapping[int, tuple[int, int]]) -> None:
        """Replaces the twin's (successes, rollouts) of the cells named."""
        cells = {cell: pb.TwinScan.Cell(successes=won, rollouts=rollouts) for cell, (won, rollouts) in scan.items()}
        self._call(self._stub.SetSuccess, pb.TwinScan(cells=cells))

    def success_map(self) -> list[CellSuccess]:
        """All cells in order."""
        reply = self._call(self._stub.SuccessMap, pb.SuccessMapRequest())
        names = CellSuccess.__dataclass_fields__
        return [CellSuccess(**{name: getattr(cell, name) for name in names}) for cell in reply.cells]

    def last_draw(self) -> Draw | None:
        """The newest draw of any client, which is where the operator puts the object; None before the first."""
        reply = self._call(self._stub.SuccessMap, pb.SuccessMapRequest())
        return _draw(reply.last) if reply.HasField("last") else None

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return method(request, timeout=self._deadline_s, wait_for_ready=True)
        except grpc.RpcError as error:
            raise unreachable("guide", self.address, error, self._deadline_s) from error


def _draw(message: pb.Draw) -> Draw:
    return Draw(configuration=from_message(message.configuration), reason=message.reason)
