"""This module serves the status of a run and of a cluster over HTTP, for people and for Prometheus.

    /               page.html: the activity of every process, and where to put the object next; refreshed every second
    /status.json    the content of the page
    /metrics        samples for Prometheus

The server only reads, has no login, and listens on loopback.
"""

import json
import math
import threading
import time
from contextlib import closing
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

from prometheus_client.exposition import choose_encoder

from protos.errors import InputError, TwinRLError
from protos.files import write_durably
from protos.process import Closing
from services.guide import GuideClient
from services.monitor.alarms import Rates, alarms, is_behind, spool_share
from services.monitor.prometheus import process_samples, samples
from services.monitor.reading import ClusterSettings, Problem, Reading, WeightsReading, of_run, overlaid, read_cluster
from services.monitor.run import process_statuses
from services.net import Credentials, is_loopback, parse_address
from services.telemetry import Sample, registry_of

DEADLINE_S = 1.0
REQUEST_TIMEOUT_S = 10.0


class PageServer(Closing):
    """A page server serves in a thread. Raises InputError for an address that is not loopback or is taken."""

    def __init__(self, given: ClusterSettings, run: Path | None, *, listen: str, port_file: Path | None = None) -> None:
        """Shows the services that `given` names, else those of the run; `port_file` receives the bound port."""
        host, port = parse_address(listen)
        if not is_loopback(host):
            raise InputError(f"--listen {listen}: the page has no login, so it listens on 127.0.0.1 only; use ssh -L")
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(given, run))
        except OSError as error:
            raise InputError(f"--listen {listen}: cannot listen there ({error})") from error
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="page", daemon=True)
        self._thread.start()
        if port_file is not None:
            write_durably(port_file, [f"{self._server.server_port}\n".encode()])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def _handler(given: ClusterSettings, run: Path | None) -> type[BaseHTTPRequestHandler]:
    page = resources.files("services.monitor").joinpath("page.html").read_bytes()
    registry = registry_of(lambda: collect_samples(given, run))

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S  # an idle client holds its thread this long

        def do_GET(self) -> None:
            if self.path == "/":
                self._answer(page, "text/html; charset=utf-8")
            elif self.path == "/status.json":
                self._answer(json.dumps(collect(given, run), allow_nan=False).encode(), "application/json")
            elif self.path == "/metrics":
                encode, kind = choose_encoder(self.headers.get("Accept", ""))
                self._answer(encode(registry), kind)
            else:
                self.send_error(404)

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            """Logs nothing: a line per second and viewer would fill the log."""

    return Handler


def collect_samples(given: ClusterSettings, run: Path | None) -> list[Sample]:
    """Reads the cluster once, and the processes of the run if there is one."""
    return samples(read_cluster(_settings(given, run))) + ([] if run is None else process_samples(run))


def collect(given: ClusterSettings, run: Path | None) -> dict[str, Any]:
    """Gathers the page as JSON values: `processes` by name, `alarms`, and per service its answer or a `problem`."""
    settings = _settings(given, run)
    page: dict[str, Any] = {"t": time.time(), "run": run.name if run else "", "processes": _processes(run)}
    if settings.guide is not None:
        try:
            page["guide"] = _guide(settings.guide, settings.credentials)
        except TwinRLError as error:
            page["guide"] = {"problem": str(error)}
    reading = read_cluster(replace(settings, guide=None))
    if reading.weights is not None:
        page["weights"] = _weights(reading.weights)
    if reading.shards:
        page["replay"] = _replay(reading)
    page["alarms"] = [asdict(alarm) for alarm in alarms(reading, Rates())]
    return page


def _settings(given: ClusterSettings, run: Path | None) -> ClusterSettings:
    return given if run is None else overlaid(of_run(run), given)


def _processes(run: Path | None) -> dict[str, Any]:
    return (
        {}
        if run is None
        else {
            name: {
                "age_s": max(0.0, time.time() - status.t),
                "doing": status.doing,
                "waiting_for": status.waiting_for,
                "rates": {name: rate if math.isfinite(rate) else None for name, rate in status.rates.items()},
            }
            for name, status in process_statuses(run).items()
        }
    )


def _guide(address: str, credentials: Credentials) -> dict[str, Any]:
    with closing(GuideClient(address, credentials=credentials, deadline_s=DEADLINE_S)) as client:
        draw = client.last_draw()
        cells = [asdict(cell) for cell in client.success_map()]
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
        "writers": sum(not writer.is_lost for writer in writers),
        "lost": sorted(writer.name for writer in writers if writer.is_lost),
        "unsent": sum(writer.stats.get("unsent", 0.0) for writer in writers),
        "fullest_spool": max(map(spool_share, writers), default=0.0),
    }
