"""This module serves the guide: one `Schedule` behind gRPC, its state on disk after every change.

Calls run one after the other on the event loop; none of them waits for anything but the disk.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import grpc

from protos import guide_pb2 as pb
from protos.errors import CorruptData, InputError
from protos.files import set_aside, write_durably
from protos.problems import problem_of
from protos.schema import Outcome
from services.guide.client import from_message, to_message
from services.guide.schedule import GuideSettings, Schedule
from services.net import LOOPBACK, Credentials, serve

log = logging.getLogger(__name__)


class GuideServer:
    """Serves draws from `settings`; with a `state` file it goes on where the last process stopped.

    Raises InputError when the state is of another configuration space; a damaged state file is set aside.
    """

    def __init__(self, settings: GuideSettings, *, state: Path | None = None) -> None:
        self._schedule = Schedule(settings)
        self._state = state
        self._last: pb.Draw | None = None
        if state is not None and state.exists():
            self._restore(state)

    async def serve(self, *, listen: str, credentials: Credentials = LOOPBACK, port_file: Path | None = None) -> None:
        """Serves until SIGTERM or Ctrl-C."""
        await serve(self.handler(), listen=listen, credentials=credentials, port_file=port_file, summary=self.summary)

    def handler(self) -> grpc.GenericRpcHandler:
        """Returns the method table for a server."""
        methods = {
            "Next": grpc.unary_unary_rpc_method_handler(
                self.next, pb.NextRequest.FromString, pb.Draw.SerializeToString
            ),
            "Report": grpc.unary_unary_rpc_method_handler(
                self.report, pb.EpisodeReport.FromString, pb.Reported.SerializeToString
            ),
            "SetSuccess": grpc.unary_unary_rpc_method_handler(
                self.set_success, pb.TwinEvaluation.FromString, pb.Reported.SerializeToString
            ),
            "SuccessMap": grpc.unary_unary_rpc_method_handler(
                self.success_map, pb.SuccessMapRequest.FromString, pb.SuccessMapReply.SerializeToString
            ),
        }
        return grpc.method_handlers_generic_handler("twinrl.v1.Guide", methods)

    def summary(self) -> tuple[str, dict[str, float]]:
        """Returns the state of the guide, for `status`."""
        cells = self._schedule.success_map()
        targets = sum(cell.target for cell in cells)
        return f"{targets} of {len(cells)} cells are targets", {"targets": float(targets)}

    async def next(self, request: pb.NextRequest, context: grpc.aio.ServicerContext) -> pb.Draw:
        configuration, reason = self._schedule.draw()
        self._last = pb.Draw(configuration=to_message(configuration), reason=reason)
        self._save()
        return self._last

    async def report(self, request: pb.EpisodeReport, context: grpc.aio.ServicerContext) -> pb.Reported:
        try:
            outcome = _outcome(request.outcome)
            configuration = from_message(request.configuration)
            counted = self._schedule.report(configuration, outcome, request.human_steps, report_id=request.id)
        except (InputError, CorruptData) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if counted:
            log.info("cell %d: %s with version %d", configuration.cell, outcome.value, request.version)
            self._save()
        return pb.Reported()

    async def set_success(self, request: pb.TwinEvaluation, context: grpc.aio.ServicerContext) -> pb.Reported:
        try:
            self._schedule.set_success(
                {cell: (tried.successes, tried.rollouts) for cell, tried in request.cells.items()}
            )
        except InputError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        self._save()
        return pb.Reported()

    async def success_map(self, request: pb.SuccessMapRequest, context: grpc.aio.ServicerContext) -> pb.SuccessMapReply:
        cells = [pb.SuccessMapReply.Cell(**asdict(cell)) for cell in self._schedule.success_map()]
        return pb.SuccessMapReply(cells=cells, last=self._last)

    def _save(self) -> None:
        if self._state is None:
            return
        try:
            write_durably(self._state, [json.dumps(self._schedule.state()).encode()])
        except OSError as error:  # whoever draws goes on; the next change tries again
            log.error("the success map is not on disk: %s", problem_of(error))

    def _restore(self, path: Path) -> None:
        try:
            self._schedule.restore(json.loads(path.read_bytes()))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            set_aside(path, f"{type(error).__name__}: {error}")
            return
        log.info("success map taken up from %s", path)


def _outcome(text: str) -> Outcome:
    try:
        return Outcome(text)
    except ValueError as error:
        known = ", ".join(one.value for one in Outcome)
        raise InputError(f"outcome {text[:40]!r}: choose one of {known}") from error
