"""This module serves the guide: one `Schedule` behind gRPC, its state on disk after every change.

    <history>/targets.jsonl   S_target in short, after every episode of the arm and whenever a cell enters or leaves it
    <history>/scans.jsonl     every result of a scanning twin: cell, success, steps, version of the weights

Calls run one after the other on the event loop; none of them waits for anything but the disk.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc

from protos import guide_pb2 as pb
from protos.errors import CorruptData, InputError
from protos.files import JsonLines, set_aside, write_durably
from protos.problems import problem_of
from protos.schema import Outcome
from services.guide.client import from_message, to_message
from services.guide.schedule import GuideSettings, Schedule
from services.net import LOOPBACK, Credentials, Role, caller, serve

log = logging.getLogger(__name__)


class GuideServer:
    """Serves draws from `settings`; with a `state` file it goes on where the last process stopped.

    `history` is a folder for what happened over time.
    Raises InputError when the state is of another configuration space; a damaged state file is set aside.
    """

    def __init__(self, settings: GuideSettings, *, state: Path | None = None, history: Path | None = None) -> None:
        self._schedule = Schedule(settings)
        self._state = state
        self._targets = None if history is None else JsonLines(history / "targets.jsonl")
        self._scans = None if history is None else JsonLines(history / "scans.jsonl")
        self._told: set[int] = set()
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
            "NextScan": grpc.unary_unary_rpc_method_handler(
                self.next_scan, pb.ScanRequest.FromString, pb.ScanStart.SerializeToString
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
        found = self._schedule.targets()
        targets, cells = (sum(region[name] for region in found["regions"].values()) for name in ("targets", "cells"))
        rates = {"targets": float(targets)} | {name: float(found[name]) for name in ("scans", "episodes", "version")}
        return f"{targets} of {cells} cells are targets", rates

    async def next(self, request: pb.NextRequest, context: grpc.aio.ServicerContext) -> pb.Draw:
        configuration, reason = self._schedule.draw()
        self._last = pb.Draw(configuration=to_message(configuration), reason=reason)
        self._save()
        return self._last

    async def next_scan(self, request: pb.ScanRequest, context: grpc.aio.ServicerContext) -> pb.ScanStart:
        start = self._schedule.next_scan()
        return pb.ScanStart(configuration=None if start is None else to_message(start))

    async def report(self, request: pb.EpisodeReport, context: grpc.aio.ServicerContext) -> pb.Reported:
        role = caller()
        if (role is Role.ROBOT and request.twin) or (role is Role.GUIDE and not request.twin):
            what = "a scan of the twin" if request.twin else "an episode of the arm"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"the role {role.value} may not report {what}")
        try:
            outcome = _outcome(request.outcome)
            configuration = from_message(request.configuration)
            counted = self._schedule.report(
                configuration,
                outcome,
                request.human_steps,
                report_id=request.id,
                version=request.version,
                twin=request.twin,
            )
        except (InputError, CorruptData) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if counted:
            self._note(request, configuration.cell, outcome)
            self._save()
        return pb.Reported()

    async def set_success(self, request: pb.TwinEvaluation, context: grpc.aio.ServicerContext) -> pb.Reported:
        try:
            self._schedule.set_success(
                {cell: (tried.successes, tried.rollouts) for cell, tried in request.cells.items()},
                version=request.version,
            )
        except InputError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        self._note_targets(always=True)
        self._save()
        return pb.Reported()

    async def success_map(self, request: pb.SuccessMapRequest, context: grpc.aio.ServicerContext) -> pb.SuccessMapReply:
        cells = [pb.SuccessMapReply.Cell(**asdict(cell)) for cell in self._schedule.success_map()]
        return pb.SuccessMapReply(cells=cells, last=self._last)

    def _note(self, request: pb.EpisodeReport, cell: int, outcome: Outcome) -> None:
        """Keeps what a counted report said and changed."""
        who = "scan" if request.twin else "episode"
        log.log(
            logging.DEBUG if request.twin else logging.INFO,
            "%s in cell %d: %s with version %d",
            who,
            cell,
            outcome.value,
            request.version,
        )
        if request.twin:
            success = outcome is Outcome.SUCCESS
            line = {"cell": cell, "success": success, "steps": request.steps, "version": request.version}
            self._keep(self._scans, line)
        self._note_targets(always=not request.twin)

    def _note_targets(self, *, always: bool) -> None:
        if self._targets is None:
            return
        now = {cell.cell for cell in self._schedule.success_map() if cell.target}
        if always or now != self._told:
            self._told = now
            self._keep(self._targets, self._schedule.targets())

    @staticmethod
    def _keep(lines: JsonLines | None, content: Mapping[str, Any]) -> None:
        if lines is None:
            return
        try:
            lines.write({"t": time.time(), **content})
        except OSError as error:  # the report's figure lacks a point; whoever draws goes on
            log.error("%s", problem_of(error))

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
