"""What changed between two looks at a cluster, per second."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protos.schema import Buffer
from services.monitor.reading import Reading
from services.replay.presence import Presence

MIN_APART_S = 0.5
"""A peer speaks once a second: two looks may find the same words."""

PeerKey = tuple[str, str, int, int]
"""Kind, name, shard, process id: a new life of an actor counts from zero again."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Per second; what cannot be told yet is missing."""

    transitions: Mapping[tuple[int, Buffer], float] = field(default_factory=dict)
    """Committed, by shard and buffer."""
    peers: Mapping[PeerKey, Mapping[str, float]] = field(default_factory=dict)
    """Change of each of a peer's own numbers."""

    def of_peer(self, peer: Presence, name: str) -> float | None:
        return self.peers.get(key_of(peer), {}).get(name)


def key_of(peer: Presence) -> PeerKey:
    return peer.kind, peer.name, peer.shard, peer.pid


def rates_between(earlier: Reading, later: Reading) -> Rates:
    """Rates over the time between two readings of the same cluster."""
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
        spoke_apart_s = (later.t - peer.age_s) - (earlier.t - old.age_s)
        if spoke_apart_s >= MIN_APART_S:
            peers[key_of(peer)] = {
                name: (value - old.stats[name]) / spoke_apart_s
                for name, value in peer.stats.items()
                if name in old.stats
            }
    return Rates(transitions=transitions, peers=peers)
