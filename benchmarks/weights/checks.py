"""This module checks what must hold when the way to a subscriber is bad: each check says whether it does, and its
numbers.

All weights travel as float32 here, so that what arrives can be compared with what was published bit by bit.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.measure import cpu_seconds
from benchmarks.weights.proxy import Proxy
from benchmarks.weights.setup import ROLES, Fleet, Trust, WeightsServer, gathered, paths_of, watchers_of
from benchmarks.weights.worker import Worker, ask_all

SLEPT_VERSIONS = 20
BURST = 10
BURST_EVERY_S = 0.05
PATIENCE_S = 120.0
GROWTH_BYTES = 64 << 20
"""Bytes by which the server may grow while watchers follow."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The settings of a check."""

    folder: Path
    parameters: int
    """Parameters of the policy that is published, 4 bytes each on the wire."""
    subscribers: int
    watchers: int
    watcher_processes: int
    watched_parameters: int
    watch_s: float
    trust: Trust


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Outcome of a check."""

    passed: bool
    numbers: str


@contextmanager
def _served(scene: Scene, subscribers: int) -> Iterator[tuple[WeightsServer, Fleet]]:
    """A server, a publisher, and subscribers that keep digests."""
    with WeightsServer(scene.folder) as server, _gathered(scene, server, subscribers) as fleet:
        yield server, fleet


@contextmanager
def _gathered(scene: Scene, server: WeightsServer, subscribers: int, address: str | None = None) -> Iterator[Fleet]:
    with gathered(
        server,
        scene.folder,
        parameters=scene.parameters,
        wire="f32",
        subscribers=subscribers,
        trust=Trust(),
        digests=True,
        address=address,
    ) as fleet:
        yield fleet


def sleeper(scene: Scene) -> Verdict:
    """Frozen by SIGSTOP while 20 versions are published, a subscriber then pulls the newest and none of the others."""
    with _served(scene, 2) as (_, fleet):
        _publish_one(fleet)
        asleep, awake = fleet.receivers
        asleep.signal(signal.SIGSTOP)
        for _ in range(SLEPT_VERSIONS):
            sent = fleet.publisher.ask("publish", marked=True)
            fleet.publisher.ask("settle")
        awake.ask("holds", version=sent["version"])
        woken = time.monotonic()
        asleep.signal(signal.SIGCONT)
        (held,) = asleep.ask("holds", version=sent["version"])
        (stats,), (swaps,) = asleep.ask("stats"), asleep.ask("swaps")
        (others,) = awake.ask("swaps")
    extra = len(swaps) - 1
    return Verdict(
        passed=extra == 1 and swaps[-1] == [sent["version"], sent["digest"]],
        numbers=f"slept through {SLEPT_VERSIONS} versions, swapped {extra} ×, skipped {stats['skipped']:.0f}, newest "
        f"in use {held - woken:.2f} s after waking; another subscriber had {len(others) - 1} of them meanwhile",
    )


def cut(scene: Scene) -> Verdict:
    """The connection is reset in the middle of a version, twice; the pull goes on where it was."""
    size = 4 * scene.parameters
    return _through_proxy(scene, cut_at=(int(size * 0.4), int(size * 0.8)), flip_at=())


def corrupt(scene: Scene) -> Verdict:
    """Bits are flipped on the way, three times; the damaged chunk is dropped and pulled again, never used."""
    size = 4 * scene.parameters
    return _through_proxy(scene, cut_at=(), flip_at=tuple(int(size * part) for part in (0.3, 0.5, 0.7)))


def _through_proxy(scene: Scene, *, cut_at: tuple[int, ...], flip_at: tuple[int, ...]) -> Verdict:
    size = 4 * scene.parameters
    with (
        WeightsServer(scene.folder) as server,
        Proxy(server.port, cut_at=cut_at, flip_at=flip_at) as proxy,
        _gathered(scene, server, 1, proxy.address) as fleet,
    ):
        sent = _publish_one(fleet)
        (receiver,) = fleet.receivers
        (stats,), (swaps,) = receiver.ask("stats"), receiver.ask("swaps")
        again = proxy.passed_bytes - size
    done = proxy.done_cuts == len(cut_at) and proxy.done_flips == len(flip_at)
    noticed = stats["resumed"] >= len(cut_at) if cut_at else stats["corrupt"] >= 1
    return Verdict(
        passed=done and noticed and swaps == [[sent["version"], sent["digest"]]],
        numbers=f"{proxy.done_cuts} cuts, {proxy.done_flips} flips in {size / 1e6:.0f} MB: resumed "
        f"{stats['resumed']:.0f} ×, {stats['corrupt']:.0f} chunks refused, {stats['pulled_bytes'] / 1e6:.1f} MB taken, "
        f"{again / 1e6:.1f} MB more on the wire than the weights, what was used is "
        + ("what was published" if swaps[-1][1] == sent["digest"] else "NOT what was published"),
    )


def burst(scene: Scene) -> Verdict:
    """Versions come faster than they can be pulled: publish() does not wait, the newest wins."""
    with _served(scene, scene.subscribers) as (_, fleet):
        _publish_one(fleet)
        sent = fleet.publisher.ask("burst", count=BURST, every_s=BURST_EVERY_S)
        newest = sent[-1]
        moments = [at for held in ask_all(fleet.receivers, "holds", version=newest["version"]) for at in held]
        swaps = [swaps for each in ask_all(fleet.receivers, "swaps") for swaps in each]
        published = fleet.publisher.ask("stats")
    digests = {one["version"]: one["digest"] for one in sent}
    true = all(digests.get(version, digest) == digest for each in swaps for version, digest in each)
    ascending = all([number for number, _ in each] == sorted({number for number, _ in each}) for each in swaps)
    blocked_ms = [one["blocked_s"] * 1e3 for one in sent]
    return Verdict(
        passed=true and ascending and all(each[-1][0] == newest["version"] for each in swaps),
        numbers=f"{BURST} versions, one every {BURST_EVERY_S * 1e3:.0f} ms where publish() let them: it took "
        f"{median(blocked_ms):.1f} ms, at worst {max(blocked_ms):.1f}; {published['skipped']:.0f} never left the "
        f"learner; {len(swaps)} subscribers swapped {median(len(each) - 1 for each in swaps):.0f} × (median), all had "
        f"the newest {max(moments) - newest['began']:.2f} s after its publish()",
    )


def outage(scene: Scene) -> Verdict:
    """The server is killed: publish() returns at once all the same, and what is newest arrives after its restart."""
    with _served(scene, scene.subscribers) as (server, fleet):
        first = _publish_one(fleet)
        server.kill()
        down = fleet.publisher.ask("burst", count=BURST, every_s=BURST_EVERY_S)
        server.start()
        listening = time.monotonic()
        newest = down[-1]["version"]
        moments = [at for held in ask_all(fleet.receivers, "holds", version=newest) for at in held]
        swaps = [swaps for each in ask_all(fleet.receivers, "swaps") for swaps in each]
    blocked_ms = [one["blocked_s"] * 1e3 for one in down]
    return Verdict(
        passed=all(each[-1] == [newest, down[-1]["digest"]] for each in swaps),
        numbers=f"publish() with the server up {first['blocked_s'] * 1e3:.1f} ms, down {median(blocked_ms):.1f} ms, "
        f"worst {max(blocked_ms):.1f}; all swapped {max(moments) - listening:.1f} s after the server listened again",
    )


def watchers(scene: Scene) -> Verdict:
    """Hundreds of subscribers of a small head, while a version a second is published."""
    credentials, log = paths_of(scene.trust.subscribers), scene.folder / "workers.log"
    names = [f"watcher-{number}" for number in range(scene.watchers)]
    groups = [names[start :: scene.watcher_processes] for start in range(scene.watcher_processes)]
    with (
        WeightsServer(scene.folder, scene.trust.server) as server,
        gathered(
            server,
            scene.folder,
            parameters=scene.watched_parameters,
            wire="bf16",
            subscribers=0,
            trust=scene.trust,
        ) as fleet,
    ):
        started, _ = server.memory()
        options = {"address": server.address, "credentials": credentials}
        crowd = [Worker(f"{ROLES}:Subscribers", {**options, "names": group}, log=log) for group in groups]
        try:
            return _watched(scene, server, fleet, crowd, started)
        finally:
            for worker in crowd:
                worker.close()


def _watched(scene: Scene, server: WeightsServer, fleet: Fleet, crowd: list[Worker], started: int) -> Verdict:
    fleet.publisher.ask("publish", marked=True)
    ask_all(crowd, "holds", version=1, timeout_s=PATIENCE_S)
    connected, _ = server.memory()
    listed, connections = len(watchers_of(server.address, scene.trust.monitor)), server.connections()
    before = [stats for each in ask_all(crowd, "stats") for stats in each]
    spent_s, count = cpu_seconds([server.pid]), max(1, round(scene.watch_s))
    fleet.publisher.ask("burst", timeout_s=scene.watch_s + PATIENCE_S, count=count, every_s=1.0)
    time.sleep(1.0)  # the last version's second
    after = [stats for each in ask_all(crowd, "stats") for stats in each]
    spent_s = cpu_seconds([server.pid]) - spent_s
    ended, peak = server.memory()
    behind = [1 + count - stats["version"] for stats in after]
    skipped = sum(new["skipped"] - old["skipped"] for new, old in zip(after, before, strict=True))
    failures = sum(new["failures"] - old["failures"] for new, old in zip(after, before, strict=True))
    return Verdict(
        passed=max(behind) <= 1 and listed == len(after) and not failures and peak - connected <= GROWTH_BYTES,
        numbers=f"{len(after)} watchers in {len(crowd)} processes ({listed} listed, {connections} connections), "
        f"{count} versions of {2 * scene.watched_parameters / 1e3:.0f} kB: at most {max(behind):.0f} behind at the "
        f"end, {skipped:.0f} of {count * len(after)} skipped, {failures:.0f} failures; server {started / 1e6:.0f} MB "
        f"before, {connected / 1e6:.0f} with all connected, {ended / 1e6:.0f} after, {peak / 1e6:.0f} peak, "
        f"{spent_s / (count + 1):.2f} of a core",
    )


def _publish_one(fleet: Fleet) -> dict[str, float]:
    """The first version, which everyone then has."""
    sent: dict[str, float] = fleet.publisher.ask("publish", marked=True)
    ask_all(fleet.receivers, "holds", version=sent["version"], timeout_s=PATIENCE_S)
    fleet.publisher.ask("settle")
    return sent


CHECKS: dict[str, Callable[[Scene], Verdict]] = {
    "sleeper": sleeper,
    "cut": cut,
    "corrupt": corrupt,
    "burst": burst,
    "outage": outage,
    "watchers": watchers,
}
