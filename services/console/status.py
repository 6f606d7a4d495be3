"""What the page shows, gathered anew for each request; a part that cannot be had says why instead."""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

from protos import weights_pb2 as pb
from protos.errors import TwinRLError
from protos.status import read_status
from protos.weights_pb2_grpc import WeightsStub
from services.credentials import LOOPBACK, Credentials
from services.guide import GuideClient
from services.transport import open_channel, unreachable

DEADLINE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the page looks; addresses are host:port, None leaves that part out."""

    run: Path
    guide: str | None = None
    weights: str | None = None
    credentials: Credentials = LOOPBACK


def collect(sources: Sources) -> dict[str, Any]:
    """JSON values: `processes` by name, and per service either its answer or `{"problem": one line}`."""
    page: dict[str, Any] = {"t": time.time(), "run": sources.run.name, "processes": _processes(sources.run)}
    for name, address, ask in (("guide", sources.guide, _guide), ("weights", sources.weights, _weights)):
        if address is not None:
            try:
                page[name] = ask(address, sources.credentials)
            except TwinRLError as error:
                page[name] = {"problem": str(error)}
    return page


def _processes(run: Path) -> dict[str, Any]:
    now = time.time()
    processes = {}
    for path in sorted((run / "logs").glob("*.status.json")):
        status = read_status(path)
        if status is not None:
            processes[path.name.removesuffix(".status.json")] = {
                "age_s": max(0.0, now - status.t),
                "doing": status.doing,
                "waiting_for": status.waiting_for,
                "rates": {name: rate if math.isfinite(rate) else None for name, rate in status.rates.items()},
            }
    return processes


def _guide(address: str, credentials: Credentials) -> dict[str, Any]:
    client = GuideClient(address, credentials=credentials, deadline_s=DEADLINE_S)
    try:
        draw = client.last_draw()
        cells = [asdict(cell) for cell in client.success_map()]
    finally:
        client.close()
    return {"next": None if draw is None else asdict(draw), "cells": cells}


def _weights(address: str, credentials: Credentials) -> dict[str, Any]:
    with open_channel(address, credentials) as channel:
        stub = WeightsStub(channel)  # type: ignore[no-untyped-call]
        try:
            status = stub.Status(pb.WeightsStatusRequest(), timeout=DEADLINE_S, wait_for_ready=True)
        except grpc.RpcError as error:
            raise unreachable("weights", address, error, DEADLINE_S) from error
    return {
        "version": status.newest.number,
        "age_s": max(0.0, time.time() - status.newest.published_unix_s) if status.HasField("newest") else None,
        "subscribers": {watcher.name: watcher.told for watcher in status.watchers},
    }
