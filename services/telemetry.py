"""This module writes telemetry: a metrics log on disk and a Prometheus page.

MetricsLog.write ──► metrics.jsonl ──► read_metrics (report, status, resume)
collect() ──► start_metrics_server ──► GET /metrics (Prometheus)
"""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from protos.errors import InputError
from protos.files import JsonLines, read_lines
from protos.process import Closing
from services.net import is_loopback, parse_address


class MetricsLog(Closing):
    """Appends one JSON object per line: `{"t": unix seconds, "stage": …, "step": …, "total": …, scalars}`.

    A line torn by a crash of an earlier process is cut off when the file is opened again, so that the log stays
    readable from end to end. NaN and infinities are written as null.
    """

    def __init__(self, path: Path, *, stage: str) -> None:
        self._stage = stage
        self._lines = JsonLines(Path(path))

    def write(self, *, step: int, total: int, **scalars: float) -> None:
        """Writes and flushes one line. `total` is the step count at which this stage ends."""
        values = {name: _finite(value) for name, value in scalars.items()}
        self._lines.write({"t": time.time(), "stage": self._stage, "step": int(step), "total": int(total), **values})

    def close(self) -> None:
        self._lines.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads a metrics log, oldest line first; null comes back as NaN. A missing file has no lines.

    A torn last line is left out, a damaged one with a warning.
    """
    return [
        {name: math.nan if value is None else value for name, value in line.items()} for line in read_lines(Path(path))
    ]


def _finite(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample is one number of a Prometheus page, named without its `twinrl_`.

    A name ends in its unit (`_seconds`, `_bytes`) and a count since the start in `_total`, which makes it a counter;
    everything else is a gauge.
    """

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


Readings = Mapping[str, float] | Iterable[Sample]
"""Telemetry of one moment; a mapping is a set of samples without labels."""


class _Collector:
    """A collector calls `collect` at every scrape of Prometheus."""

    def __init__(self, collect: Callable[[], Readings]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        readings = self._collect()
        if isinstance(readings, Mapping):
            readings = [Sample(name=name, value=value) for name, value in readings.items()]
        families: dict[str, list[Sample]] = {}
        for sample in readings:
            families.setdefault(sample.name, []).append(sample)
        return (_family(name, samples) for name, samples in families.items())


def _family(name: str, samples: Sequence[Sample]) -> Metric:
    full = f"twinrl_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}"
    labels = list(samples[0].labels)
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    family = kind(full, name.replace("_", " "), labels=labels)
    for sample in samples:
        family.add_metric([sample.labels[label] for label in labels], float(sample.value))
    return family


def registry_of(collect: Callable[[], Readings]) -> CollectorRegistry:
    """Makes a registry with `collect()` and with CPU time, memory and open files of this process."""
    registry = CollectorRegistry()
    registry.register(_Collector(collect))
    ProcessCollector(registry=registry)
    return registry


class MetricsServer(Closing):
    """A metrics server is a running Prometheus page; `address` is its host:port."""

    def __init__(self, address: str, collect: Callable[[], Readings]) -> None:
        host, port = parse_address(address)
        if not is_loopback(host):
            raise InputError(f"metrics address {address}: the page has no login, so it listens on 127.0.0.1 only")
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry_of(collect))
        except OSError as error:
            raise InputError(f"metrics address {address}: cannot listen there ({error})") from error
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def start_metrics_server(address: str, collect: Callable[[], Readings]) -> MetricsServer:
    """Serves `collect()` as metrics named `twinrl_…` at `http://address/metrics`; port 0 picks a free one.

    `collect` is called by the page's own threads, and returns within a few seconds. CPU time, memory and open files of
    the process itself are on the page too. Raises InputError for an address that is not loopback or not
    free.
    """
    return MetricsServer(address, collect)
