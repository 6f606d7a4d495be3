"""This module makes Prometheus samples of a reading and of a run's processes; docs/metrics.md defines each name."""

import time
from collections.abc import Iterator
from pathlib import Path

from protos.status import Status
from services.monitor.reading import Problem, Reading, WeightsReading
from services.monitor.run import process_statuses
from services.replay import LeaseReading, replay_samples
from services.telemetry import Sample


def samples(reading: Reading) -> list[Sample]:
    """Makes samples of a whole reading, labelled with shard, buffer, actor, reader and subscriber."""
    left = [
        Sample(name="certificate_left_seconds", value=seconds, labels={"of": name})
        for name, seconds in reading.certificates.items()
    ]
    return [
        *replay_samples(reading.shards),
        *_lease(reading.lease),
        *_weights(reading.weights),
        *_guide(reading.targets),
        *left,
    ]


def _lease(lease: LeaseReading | None) -> Iterator[Sample]:
    if lease is not None:
        labels = {"learner": lease.holder.name}
        yield Sample(name="lease_number", value=lease.number, labels=labels)
        yield Sample(name="lease_left_seconds", value=lease.left_s, labels=labels)


def _weights(weights: WeightsReading | Problem | None) -> Iterator[Sample]:
    if weights is None:
        return
    yield Sample(name="weights_up", value=float(isinstance(weights, WeightsReading)))
    if isinstance(weights, Problem):
        return
    yield Sample(name="weights_version", value=weights.version)
    yield Sample(name="weights_age_seconds", value=weights.age_s)
    yield Sample(name="weights_watchers", value=len(weights.watchers))
    newest = {each.name: each for each in sorted(weights.watchers, key=lambda each: -each.behind)}
    for each in newest.values():
        labels = {"subscriber": each.name}
        yield Sample(name="subscriber_version", value=each.using, labels=labels)
        yield Sample(name="subscriber_versions_behind", value=each.behind, labels=labels)
        yield Sample(name="subscriber_in_use_seconds", value=each.using_s, labels=labels)


def _guide(targets: int | Problem | None) -> Iterator[Sample]:
    if targets is None:
        return
    yield Sample(name="guide_up", value=float(isinstance(targets, int)))
    if isinstance(targets, int):
        yield Sample(name="guide_target_cells", value=targets)


def process_samples(run: Path) -> list[Sample]:
    """Makes samples of the status files of a run's processes."""
    return [sample for name, status in process_statuses(run).items() for sample in _process(name, status)]


def _process(name: str, status: Status) -> Iterator[Sample]:
    labels = {"process": name}
    yield Sample(name="process_told_seconds", value=max(0.0, time.time() - status.t), labels=labels)
    yield Sample(name="process_waiting", value=float(bool(status.waiting_for)), labels=labels)
    for told, value in status.rates.items():
        yield Sample(name="process_reading", value=value, labels=labels | {"name": told})
