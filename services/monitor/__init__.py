"""This package tells the status of a run and of a whole cluster, in a terminal, on a page and to Prometheus.

    run folder: processes, stages ───────────────── read_run ─────► RunStatus ─┐
    replay shards: load, rings, writers, readers ─┐                            ├─► terminal: twinrl status
    weights: version, subscribers ────────────────┼ read_cluster ─► Reading ───┼─► page: python -m services.monitor
    guide: cells it aims at ──────────────────────┘      two of them: Rates ───┴─► Prometheus: twinrl serve metrics

    ClusterSettings, Addresses, of_run, overlaid    where the services are
    alarms                                          conditions that an operator should look at
    render_run, render_cluster                      tables for a terminal
    samples, process_samples                        samples for Prometheus
    PageServer, collect                             the page and what it shows

A service that does not answer within about two seconds is a line of its own; the others are shown all the same.
"""

from services.monitor.alarms import Alarm, Rates, alarms, is_behind, rates_between, spool_share
from services.monitor.page import PageServer, collect
from services.monitor.prometheus import process_samples, samples
from services.monitor.reading import (
    Addresses,
    ClusterSettings,
    Problem,
    Reading,
    Watcher,
    WeightsReading,
    of_run,
    overlaid,
    read_cluster,
)
from services.monitor.run import ProcessLine, RunStatus, process_statuses, read_run
from services.monitor.terminal import render_cluster, render_run

__all__ = [
    "Addresses",
    "Alarm",
    "ClusterSettings",
    "PageServer",
    "Problem",
    "ProcessLine",
    "Rates",
    "Reading",
    "RunStatus",
    "Watcher",
    "WeightsReading",
    "alarms",
    "collect",
    "is_behind",
    "of_run",
    "overlaid",
    "process_samples",
    "process_statuses",
    "rates_between",
    "read_cluster",
    "read_run",
    "render_cluster",
    "render_run",
    "samples",
    "spool_share",
]
