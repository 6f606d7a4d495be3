"""`python -m services.monitor.page --run runs/demo` serves a page for the operator and the lab until SIGTERM or Ctrl-C.

    runs/<name>/logs/*.status.json ────┐
    guide: newest draw, success map ───┼─► /status.json ─► page.html, refreshed every second
    services.monitor: replay, weights ─┘

It shows the state of every process and where to put the object next. It only reads, has no login, and listens on
loopback.
"""

import json
import logging
import math
import sys
import threading
import time
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

from protos.errors import InputError, TwinRLError
from protos.files import write_durably
from protos.process import Closing, run_process, stop_on_signal
from services.guide import GuideClient
from services.monitor import (
    ClusterSettings,
    Problem,
    Rates,
    Reading,
    WeightsReading,
    alarms,
    is_behind,
    of_run,
    overlaid,
    process_statuses,
    read_cluster,
    spool_share,
)
from services.net import Credentials, is_loopback, parse_address

log = logging.getLogger(__name__)

DEADLINE_S = 1.0
REQUEST_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Serves a page with the state of every process and where to put the object next."""

    run: Path
    """Folder of the run."""
    guide: str | None = None
    """host:port of the guide; without it the page has no success map."""
    weights: str | None = None
    """host:port of the weights service, in place of the run's."""
    credentials: Credentials = field(default_factory=Credentials)
    """For the guide and the weights."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Sources):
    """Serves a page with the state of every process and where to put the object next."""

    listen: str = "127.0.0.1:0"
    """host:port on loopback; port 0 picks a free one."""
    port_file: Path | None = None
    """Receives the bound port, for launchers."""


def main(arguments: Arguments) -> None:
    """Serves until a signal."""
    stop = stop_on_signal()
    with PageServer(arguments, listen=arguments.listen, port_file=arguments.port_file) as server:
        log.info("http://%s", server.address)
        stop.wait()


class PageServer(Closing):
    """A page server serves in a thread. Raises InputError for an address that is not loopback or is taken."""

    def __init__(self, sources: Sources, *, listen: str = "127.0.0.1:0", port_file: Path | None = None) -> None:
        host, port = parse_address(listen)
        if not is_loopback(host):
            raise InputError(f"--listen {listen}: the page has no login, so it listens on 127.0.0.1 only; use ssh -L")
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(sources))
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


def _handler(sources: Sources) -> type[BaseHTTPRequestHandler]:
    page = resources.files("services.monitor").joinpath("page.html").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S  # an idle client holds its thread this long

        def do_GET(self) -> None:
            if self.path == "/":
                self._answer(page, "text/html; charset=utf-8")
            elif self.path == "/status.json":
                self._answer(json.dumps(collect(sources), allow_nan=False).encode(), "application/json")
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


def collect(sources: Sources) -> dict[str, Any]:
    """Gathers the page as JSON values: `processes` by name, `alarms`, and per service its answer or a `problem`.

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
    return {
        name: {
            "age_s": max(0.0, time.time() - status.t),
            "doing": status.doing,
            "waiting_for": status.waiting_for,
            "rates": {name: rate if math.isfinite(rate) else None for name, rate in status.rates.items()},
        }
        for name, status in process_statuses(run).items()
    }


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
        "writers": len(writers),
        "unsent": sum(writer.stats.get("unsent", 0.0) for writer in writers),
        "fullest_spool": max(map(spool_share, writers), default=0.0),
    }


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
