"""Rounds of publishing: the weights move a little, are published, and every receiver swaps."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.weights.setup import Fleet
from benchmarks.weights.worker import ask_all


@dataclass(frozen=True, kw_only=True)
class Round:
    """One version on its way. Seconds from the call of publish() unless said otherwise."""

    blocked_s: float
    """Seconds that publish() took."""
    swapped_s: tuple[float, ...]
    """Seconds until each receiver could use it."""
    pulled_bytes: int
    """Bytes that came to all receivers together."""
    cpu_s: dict[str, float]
    """CPU seconds by kind of process, all of a kind together, until the server had it on disk as well."""


def publish_rounds(fleet: Fleet, rounds: int, step: float) -> list[Round]:
    """One round to warm up, which is the first in the list, then `rounds`; weights move by up to `step`."""
    done = []
    for _ in range(1 + rounds):
        fleet.publisher.ask("train", step=step)
        pulled, cpu_s = sum(ask_all(fleet.receivers, "pulled")), fleet.cpu_s()
        sent = fleet.publisher.ask("publish")
        moments = [moment for held in ask_all(fleet.receivers, "holds", version=sent["version"]) for moment in held]
        fleet.publisher.ask("settle")
        done.append(
            Round(
                blocked_s=sent["blocked_s"],
                swapped_s=tuple(moment - sent["began"] for moment in moments),
                pulled_bytes=sum(ask_all(fleet.receivers, "pulled")) - pulled,
                cpu_s={name: after - cpu_s[name] for name, after in fleet.cpu_s().items()},
            )
        )
    return done


HEADER = (
    "way",
    "MB per receiver",
    "publish() blocks [ms], median / worst",
    "receivers swapped [s], median / slowest, median of rounds",
    "slowest of all [s]",
    "first version [s]",
    "CPU per version [s], server / publisher / a receiver",
)


def row(name: str, sweeps: Sequence[Sequence[Round]], receivers: int) -> tuple[str, ...]:
    """One line of the table with `HEADER`, over the warm rounds of all sweeps."""
    warm = [done for sweep in sweeps for done in sweep[1:]]
    blocked = [done.blocked_s * 1e3 for done in warm]
    middle = statistics.median(statistics.median(done.swapped_s) for done in warm)
    slowest = [max(done.swapped_s) for done in warm]
    kinds = {name: statistics.mean(done.cpu_s.get(name, 0.0) for done in warm) for name in warm[0].cpu_s}
    cpu = (kinds.get("server"), kinds["publisher"], kinds["subscribers"] / receivers)
    return (
        name,
        f"{statistics.mean(done.pulled_bytes for done in warm) / receivers / 1e6:.1f}",
        f"{statistics.median(blocked):.1f} / {max(blocked):.1f}",
        f"{middle:.2f} / {statistics.median(slowest):.2f}",
        f"{max(slowest):.2f}",
        f"{max(max(sweep[0].swapped_s) for sweep in sweeps):.2f}",
        " / ".join("–" if spent is None else f"{spent:.2f}" for spent in cpu),
    )
