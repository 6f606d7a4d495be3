"""A reading as samples for Prometheus; docs/metrics.md defines each name."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from protos.status import read_status
from services.monitor.reading import Problem, Reading, WeightsReading
from services.replay.presence import Presence
from services.replay.server.stats import ServerStats
from services.telemetry import Sample

WRITER = {
    "transitions": "writer_transitions_total",
    "segments": "writer_segments_total",
    "dropped": "writer_dropped_total",
    "failures": "writer_failures_total",
    "unsent": "writer_unsent_segments",
    "oldest_unsent_s": "writer_oldest_unsent_seconds",
    "spool_bytes": "writer_spool_bytes",
    "spool_limit_bytes": "writer_spool_limit_bytes",
    "connected": "writer_connected",
    "waiting": "writer_waiting",
}
READER = {
    "segments": "reader_segments_total",
    "episodes": "reader_episodes_total",
    "overwritten": "reader_overwritten_total",
    "missed": "reader_missed_total",
    "corrupt": "reader_corrupt_total",
    "failures": "reader_failures_total",
    "transitions_per_s": "reader_transitions_per_second",
    "lag_transitions": "reader_lag_transitions",
    "shards_away": "reader_shards_away",
    "memory_bytes": "reader_memory_bytes",
}
"""What a peer says of itself, and what that is called on the page."""


def samples(reading: Reading) -> list[Sample]:
    """Everything that a reading tells, labelled with shard, buffer, and the name of who said it."""
    return [
        *(sample for stats in reading.shards for sample in _shard(stats)),
        *(sample for peer in reading.writers for sample in _writer(peer)),
        *(sample for peer in reading.readers for sample in _said(peer, READER, {"reader": peer.name})),
        *_weights(reading.weights),
        *_guide(reading.targets),
    ]


def _shard(stats: ServerStats) -> Iterator[Sample]:
    labels = {"shard": str(stats.shard)}
    yield Sample(name="replay_up", value=float(bool(stats.version)), labels=labels)
    if not stats.version:
        return
    yield Sample(name="replay_memory_bytes", value=stats.memory_bytes, labels=labels)
    yield Sample(name="replay_memory_limit_bytes", value=stats.memory_limit_bytes, labels=labels)
    yield Sample(name="replay_clients", value=stats.clients, labels=labels)
    yield Sample(name="replay_commands_per_second", value=stats.commands_per_s, labels=labels)
    for buffer, held in stats.buffers.items():
        of_buffer = labels | {"buffer": buffer}
        yield Sample(name="replay_transitions_total", value=held.transitions, labels=of_buffer)
        yield Sample(name="replay_segments", value=held.segments, labels=of_buffer)
        yield Sample(name="replay_bytes", value=held.bytes, labels=of_buffer)
        yield Sample(name="replay_capacity_bytes", value=held.capacity_bytes, labels=of_buffer)


def _writer(peer: Presence) -> Iterator[Sample]:
    return _said(peer, WRITER, {"actor": peer.name, "shard": str(peer.shard)})


def _said(peer: Presence, names: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[Sample]:
    yield Sample(name=f"{peer.kind}_silent_seconds", value=peer.age_s, labels=labels)
    for told, name in names.items():
        if told in peer.stats:
            yield Sample(name=name, value=peer.stats[told], labels=labels)


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


def process_samples(logs: Path) -> list[Sample]:
    """What the processes of a run say in their status files."""
    found = []
    for path in sorted(logs.glob("*.status.json")):
        status = read_status(path)
        if status is not None:
            labels = {"process": path.name.removesuffix(".status.json")}
            found.append(Sample(name="process_told_seconds", value=max(0.0, time.time() - status.t), labels=labels))
            found.append(Sample(name="process_waiting", value=float(bool(status.waiting_for)), labels=labels))
            found += [
                Sample(name="process_reading", value=value, labels=labels | {"name": name})
                for name, value in status.rates.items()
            ]
    return found
