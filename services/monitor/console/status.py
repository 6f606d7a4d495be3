"""What the page shows, gathered anew for each request; a part that cannot be had says why instead."""

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from protos.errors import TwinRLError
from protos.status import read_status
from services.guide import GuideClient
from services.monitor import ClusterSettings, Problem, Rates, Reading, WeightsReading, alarms, read_cluster
from services.monitor.addresses import of_run, overlaid
from services.monitor.alarms import is_behind, spool_share
from services.net.credentials import LOOPBACK, Credentials

DEADLINE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the page looks; addresses are host:port, None leaves that part out."""

    run: Path
    guide: str | None = None
    weights: str | None = None
    credentials: Credentials = LOOPBACK


def collect(sources: Sources) -> dict[str, Any]:
    """JSON values: `processes` by name, `alarms`, and per service either its answer or `{"problem": one line}`.

    The replay and the weights are those that the run's settings files name; `sources` may name others.
    """
    page: dict[str, Any] = {"t": time.time(), "run": sources.run.name, "processes": _processes(sources.run)}
    if sources.guide is not None:
        try:
            page["guide"] = _guide(sources.guide, sources.credentials)
        except TwinRLError as error:
            page["guide"] = {"problem": str(error)}
    given = ClusterSettings(weights=sources.weights, credentials=sources.credentials)
    reading = read_cluster(replace(overlaid(of_run(sources.run), given), guide=None))
    if reading.weights is not None:
        page["weights"] = _weights(reading.weights)
    if reading.shards:
        page["replay"] = _replay(reading)
    page["alarms"] = [asdict(alarm) for alarm in alarms(reading, Rates())]
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


def _weights(weights: WeightsReading | Problem) -> dict[str, Any]:
    if isinstance(weights, Problem):
        return {"problem": weights.text}
    subscribers = {
        each.name: {
            "using": each.using,
            "behind": each.behind,
            "late": is_behind(each.using, each.behind, each.using_s),
        }
        for each in sorted(weights.watchers, key=lambda each: each.behind)
    }
    age_s = weights.age_s if weights.version else None
    return {"version": weights.version, "age_s": age_s, "subscribers": subscribers}


def _replay(reading: Reading) -> dict[str, Any]:
    writers = reading.writers
    return {
        "shards": len(reading.shards),
        "shards_up": sum(not stats.problem for stats in reading.shards),
        "writers": len(writers),
        "unsent": sum(writer.stats.get("unsent", 0.0) for writer in writers),
        "fullest_spool": max(map(spool_share, writers), default=0.0),
    }
