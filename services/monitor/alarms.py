"""This module finds what an operator should look at: rates from two readings, then alarms in sentences, worst first."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from protos.schema import Buffer
from services.monitor.reading import Problem, Reading, WeightsReading
from services.replay import Presence, ServerStats

MIN_APART_S = 0.5
"""A presence is sent once a second: two readings may find the same one."""
UNSENT_S = 10.0
SPOOL_SHARE = 0.5
MEMORY_SHARE = 0.9
VERSIONS_BEHIND = 2
"""One version is normal: it was published a moment ago."""
STALE_S = 10.0
CERTIFICATE_S = 14 * 86_400.0
"""A certificate that expires sooner is to be renewed."""
LAG_S, LAG_TRANSITIONS = 5.0, 1_000
"""A reader that lacks more than it takes in during five seconds does not keep up."""


Severity = Literal["error", "warning"]


PeerKey = tuple[str, str, int, int]
"""Kind, name, shard, process id: a new process of an actor counts from zero again."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Rates are per second; those that two readings do not show yet are missing."""

    transitions: Mapping[tuple[int, Buffer], float] = field(default_factory=dict)
    """Committed, by shard and buffer."""
    peers: Mapping[PeerKey, Mapping[str, float]] = field(default_factory=dict)
    """Change of each of a peer's own numbers."""

    def of_peer(self, peer: Presence, name: str) -> float | None:
        """Returns the rate of one of a peer's counts, None if it is unknown."""
        return self.peers.get(key_of(peer), {}).get(name)


def key_of(peer: Presence) -> PeerKey:
    """Returns the key of a peer's process."""
    return peer.kind, peer.name, peer.shard, peer.pid


def rates_between(earlier: Reading, later: Reading) -> Rates:
    """Computes the rates between two readings of the same cluster."""
    apart_s = later.t - earlier.t
    if apart_s < MIN_APART_S:
        return Rates()
    before = {stats.shard: stats for stats in earlier.shards}
    transitions = {
        (stats.shard, buffer): (held.transitions - before[stats.shard].buffers[buffer].transitions) / apart_s
        for stats in later.shards
        for buffer, held in stats.buffers.items()
        if stats.shard in before and buffer in before[stats.shard].buffers
    }
    first = {key_of(peer): peer for peer in earlier.peers}
    peers = {}
    for peer in later.peers:
        old = first.get(key_of(peer))
        if old is None:
            continue
        sent_apart_s = (later.t - peer.age_s) - (earlier.t - old.age_s)
        if sent_apart_s >= MIN_APART_S:
            peers[key_of(peer)] = {
                name: (value - old.stats[name]) / sent_apart_s
                for name, value in peer.stats.items()
                if name in old.stats
            }
    return Rates(transitions=transitions, peers=peers)


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """An alarm is one thing that is not as it should be."""

    severity: Severity
    text: str


def alarms(reading: Reading, rates: Rates) -> list[Alarm]:
    """Lists errors first (a service is away or data is lost), then warnings (that may come)."""
    found = [
        *(alarm for stats in reading.shards for alarm in _of_shard(stats)),
        *_of_services(reading),
        *_of_writers(reading, rates),
        *_of_readers(reading),
        *_of_watchers(reading.weights),
        *_of_certificates(reading),
    ]
    return sorted(found, key=lambda alarm: alarm.severity)


def spool_share(writer: Presence) -> float:
    """Returns the share of a writer's spool that is in use, 0 to 1."""
    limit = writer.stats.get("spool_limit_bytes", 0.0)
    return writer.stats.get("spool_bytes", 0.0) / limit if limit else 0.0


def is_behind(using: int, behind: int, using_s: float) -> bool:
    """Returns True if a subscriber lags by more than one version or for longer than a pull takes."""
    return using > 0 and behind > 0 and (behind >= VERSIONS_BEHIND or using_s > STALE_S)


def _of_shard(stats: ServerStats) -> Iterator[Alarm]:
    if stats.problem:
        yield _error(f"shard {stats.shard}: {stats.problem}")
        if not stats.version:
            yield _warning(
                f"shard {stats.shard}: its writers are not shown; until it answers they keep their segments on disk"
            )
        return
    limit = stats.memory_limit_bytes
    if limit and stats.memory_bytes > MEMORY_SHARE * limit:
        share = f"{stats.memory_bytes / limit:.0%} of its maxmemory is used"
        yield _warning(f"shard {stats.shard}: {share}; when it is full its writers keep their segments on disk")
    if not stats.logged:
        yield _warning(f"shard {stats.shard}: keeps no log of commands (appendonly no), a restart loses its data")


def _of_services(reading: Reading) -> Iterator[Alarm]:
    for answer in (reading.weights, reading.targets):
        if isinstance(answer, Problem):
            yield _error(answer.text)


def _of_writers(reading: Reading, rates: Rates) -> Iterator[Alarm]:
    writers = sorted(reading.writers, key=spool_share, reverse=True)
    dropping = [writer for writer in writers if (rates.of_peer(writer, "dropped") or 0.0) > 0]
    if dropping:
        yield _error(f"{_names(dropping)}: the spool is full, segments are lost")
    dropped = [writer for writer in writers if writer.stats.get("dropped", 0.0) > 0 and writer not in dropping]
    if dropped:
        count = sum(writer.stats["dropped"] for writer in dropped)
        yield _warning(f"{_names(dropped)}: {count:.0f} segments were lost earlier, when the spool was full")
    filling = [writer for writer in writers if spool_share(writer) > SPOOL_SHARE and writer not in dropping]
    if filling:
        left_s = _seconds_left(filling[0], rates)
        soon = f", full in about {left_s / 60:.0f} min" if left_s is not None else ""
        yield _warning(f"{_names(filling)}: the spool is {spool_share(filling[0]):.0%} full{soon}")
    waiting = [writer for writer in writers if writer.stats.get("oldest_unsent_s", 0.0) > UNSENT_S]
    if waiting:
        oldest_s = max(writer.stats["oldest_unsent_s"] for writer in waiting)
        yield _warning(f"{_names(waiting)}: the oldest segment has waited {oldest_s:.0f} s for its shard")
    lost = [peer for peer in (*writers, *reading.readers) if peer.is_lost]
    if lost:
        hosts = ", ".join(sorted({peer.host for peer in lost}))
        yield _warning(f"{_names(lost)}: lost, last heard {max(peer.age_s for peer in lost):.0f} s ago from {hosts}")


def _of_readers(reading: Reading) -> Iterator[Alarm]:
    alive = [peer for peer in reading.writers if not peer.is_lost]
    if alive and all(reader.is_lost for reader in reading.readers):
        yield _warning("nobody reads the replay: is a learner running?")
    for reader in reading.readers:
        lag, flow = (reader.stats.get(name, 0.0) for name in ("lag_transitions", "transitions_per_s"))
        if lag > max(LAG_S * flow, LAG_TRANSITIONS):
            yield _warning(f"{reader.name}: {lag:,.0f} transitions behind what the shards hold")
        if reader.stats.get("shards_away", 0.0):
            yield _warning(f"{reader.name}: reads {_shards_left(reader)} shards, the others do not answer it")


def _of_watchers(weights: WeightsReading | Problem | None) -> Iterator[Alarm]:
    if not isinstance(weights, WeightsReading):
        return
    late = [each for each in weights.watchers if is_behind(each.using, each.behind, each.using_s)]
    if late:
        worst = max(late, key=lambda each: (each.behind, each.using_s))
        more = f" (and {len(late) - 1} more)" if len(late) > 1 else ""
        since = f"for {worst.using_s:.0f} s"
        yield _warning(f"{worst.name}{more} has used version {worst.using} {since}, {worst.behind} behind the newest")


def _of_certificates(reading: Reading) -> Iterator[Alarm]:
    told = {peer.name: peer.stats.get("certificate_left_s", math.inf) for peer in (*reading.writers, *reading.readers)}
    left = {**told, **reading.certificates}
    soon = sorted((name for name, seconds in left.items() if seconds < CERTIFICATE_S), key=lambda name: left[name])
    if soon:
        shown = ", ".join(soon[:3]) + (f" and {len(soon) - 3} more" if len(soon) > 3 else "")
        days = left[soon[0]] / 86_400
        yield _warning(f"{shown}: the certificate expires in {days:.1f} days; `twinrl certificates renew`")


def _seconds_left(writer: Presence, rates: Rates) -> float | None:
    """Returns the seconds until a spool that grows at its present rate is full."""
    growth = rates.of_peer(writer, "spool_bytes") or 0.0
    left = writer.stats.get("spool_limit_bytes", 0.0) - writer.stats.get("spool_bytes", 0.0)
    return left / growth if growth > 0 else None


def _shards_left(reader: Presence) -> str:
    shards, away = reader.stats.get("shards", 0.0), reader.stats.get("shards_away", 0.0)
    return f"{shards - away:.0f} of {shards:.0f}"


def _names(peers: list[Presence]) -> str:
    shown = ", ".join(peer.name for peer in peers[:3])
    return shown if len(peers) <= 3 else f"{shown} and {len(peers) - 3} more"


def _error(text: str) -> Alarm:
    return Alarm(severity="error", text=text)


def _warning(text: str) -> Alarm:
    return Alarm(severity="warning", text=text)
