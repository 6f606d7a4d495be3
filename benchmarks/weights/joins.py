"""This benchmark measures how soon a new actor is served, how soon a dead one's place is free, and what a restarted
learner finds.

crowd (a few processes) ──► replay, weights ◄── newcomer: first segment acknowledged, newest weights in use
                                   └── who is listed, after a peer was frozen (no FIN) or killed?

twinrl bench joins
"""

import contextlib
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import hardware, spread, table
from benchmarks.weights.joins_roles import replay_at
from benchmarks.weights.setup import ROLES, WeightsServer, watchers_of
from benchmarks.weights.worker import Worker, ask_all
from protos.errors import InputError
from services.replay import EmbeddedServer, ServerConfig, presence

JOINS = "benchmarks.weights.joins_roles"
LOOK_EVERY_S = 0.1
FREE_WITHIN_S = 30.0
GIVE_UP_S = 90.0


@dataclass(frozen=True, kw_only=True)
class JoinsBench:
    """Join a replay and a weights service that others use already; freeze and kill peers; restart the learner."""

    others: tuple[int, ...] = (1, 99)
    """Numbers of actors that are there already."""
    processes: int = 3
    """Among which those actors are spread."""
    write_every_s: float = 1.0
    """Each of them writes a segment of 16 transitions that often."""
    parameters: tuple[int, ...] = (400_000, 27_000_000)
    """Sizes of the policies that the newcomer pulls, 2 bytes each."""
    repeats: int = 5
    segments: int = 500
    """Segments of 16 transitions for a restarted learner to find."""
    dead_peers: bool = True
    """Wait for the places of a frozen and a killed peer to be free, half a minute."""

    def __post_init__(self) -> None:
        if not (self.others and min(self.others) >= 1 and self.parameters):
            raise InputError(f"others={self.others}, parameters={self.parameters}: name at least one of each, above 0")
        for name in ("processes", "write_every_s", "repeats", "segments"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)}: must be above 0")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """The services, and the folder of everything."""

    folder: Path
    replay: EmbeddedServer
    weights: WeightsServer

    @property
    def log(self) -> Path:
        return self.folder / "workers.log"


def run(settings: JoinsBench) -> str:
    """Markdown: tables of joins, of dead peers, of restarts."""
    parts = [f"Machine: {hardware()}."]
    with tempfile.TemporaryDirectory(prefix="twinrl-bench-") as name:
        folder = Path(name)
        header = ("who joins", "what", "from making it [s]", "with the start of its process [s]")
        parts.append(table(header, _joins(settings, folder)))
        if settings.dead_peers:
            with _services(folder / "dead") as place, _publisher(place, 1000) as publisher:
                publisher.ask("publish", marked=True)
                parts.append(table(("peer", "list", "gone after [s]", "result"), _dead_peers(place)))
        with _services(folder / "restart") as place:
            parts.append(table(("restarted", "what it finds"), _restarts(settings, place)))
    return "\n\n".join(parts) + "\n"


def _joins(settings: JoinsBench, folder: Path) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for parameters in settings.parameters:
        with _services(folder / f"of-{parameters}") as place, _publisher(place, parameters) as publisher:
            publisher.ask("publish", marked=True)
            publisher.ask("settle")
            for others in settings.others:
                with _crowd(settings, place, others) as crowd:
                    who = f"actor {1 + sum(ask_all(crowd, 'ready'))}"
                    if parameters == settings.parameters[0]:
                        rows.append((who, "first segment acknowledged", *_join_replay(settings, place)))
                    what = f"weights of {2 * parameters / 1e6:.1f} MB in use"
                    rows.append((who, what, *_join_weights(settings, place)))
    return rows


@contextlib.contextmanager
def _services(folder: Path) -> Iterator[_Place]:
    # the socket's path must be short, the folder's may not be
    with (
        tempfile.TemporaryDirectory(prefix="twinrl-") as short,
        EmbeddedServer(folder / "replay", ServerConfig(socket=Path(short) / "replay.sock")) as replay,
        WeightsServer(folder / "weights") as weights,
    ):
        yield _Place(folder=folder, replay=replay, weights=weights)


def _publisher(place: _Place, parameters: int) -> Worker:
    options = {"address": place.weights.address, "parameters": parameters}
    return Worker(f"{ROLES}:Publisher", options, log=place.log)


def _join_replay(settings: JoinsBench, place: _Place) -> tuple[str, str]:
    return _columns(
        [_join(place, f"newcomer-{n}", "join_replay", url=place.replay.url) for n in range(settings.repeats)]
    )


def _join_weights(settings: JoinsBench, place: _Place) -> tuple[str, str]:
    arguments = {"address": place.weights.address, "version": 1}
    return _columns([_join(place, f"newcomer-{n}", "join_weights", **arguments) for n in range(settings.repeats)])


def _columns(joins: Sequence[tuple[float, float]]) -> tuple[str, str]:
    return spread([alone for alone, _ in joins], 2), spread([whole for _, whole in joins], 2)


def _join(place: _Place, name: str, do: str, **arguments: Any) -> tuple[float, float]:
    """Seconds that a newcomer took, and seconds from the start of its process."""
    started = time.monotonic()
    with Worker(f"{JOINS}:Newcomer", {"name": name}, log=place.log) as newcomer:
        answer = newcomer.ask(do, **arguments)
        return answer["joined"] - answer["began"], answer["joined"] - started


@contextlib.contextmanager
def _crowd(settings: JoinsBench, place: _Place, others: int) -> Iterator[list[Worker]]:
    names = [f"actor-{number}" for number in range(others)]
    groups = [group for start in range(settings.processes) if (group := names[start :: settings.processes])]
    options = {"replay": place.replay.url, "weights": place.weights.address, "every_s": settings.write_every_s}
    crowd: list[Worker] = []
    try:
        for group in groups:
            crowd.append(Worker(f"{JOINS}:Crowd", {**options, "names": group}, log=place.log))
        yield crowd
    finally:
        for worker in crowd:
            worker.close()


def _dead_peers(place: _Place) -> list[tuple[str, ...]]:
    """One peer is frozen by SIGSTOP, its connections stay open; one is killed. When are they no longer listed?"""
    ways = {"frozen": signal.SIGSTOP, "killed": signal.SIGKILL}
    peers = {name: Worker(f"{JOINS}:Newcomer", {"name": name}, log=place.log) for name in ways}
    try:
        for peer in peers.values():
            peer.ask("join_replay", url=place.replay.url)
            peer.ask("join_weights", address=place.weights.address, version=1)
        lists: dict[str, Callable[[], list[str]]] = {
            "weights, watchers": lambda: watchers_of(place.weights.address),
            "replay, presence": lambda: [one.name for one in presence(replay_at(place.replay.url))],
        }
        _await_all(lists, list(ways))
        moments = {name: _signal(peers[name], number) for name, number in ways.items()}
        return _await_none(lists, moments)
    finally:
        for peer in peers.values():
            peer.close()


def _signal(peer: Worker, number: signal.Signals) -> float:
    peer.signal(number)
    return time.monotonic()


def _await_all(lists: dict[str, Callable[[], list[str]]], names: Sequence[str]) -> None:
    give_up = time.monotonic() + GIVE_UP_S
    while time.monotonic() < give_up:
        if all(any(listed.startswith(name) for listed in ask()) for ask in lists.values() for name in names):
            return
        time.sleep(LOOK_EVERY_S)
    raise InputError(f"{', '.join(names)} were not listed within {GIVE_UP_S:g} s")


def _await_none(lists: dict[str, Callable[[], list[str]]], moments: dict[str, float]) -> list[tuple[str, ...]]:
    waiting = {(name, place) for name in moments for place in lists}
    gone: dict[tuple[str, str], float] = {}
    give_up = time.monotonic() + GIVE_UP_S
    while waiting and time.monotonic() < give_up:
        for place in {place for _, place in waiting}:
            listed, now = lists[place](), time.monotonic()
            left = {key for key in waiting if key[1] == place and not any(text.startswith(key[0]) for text in listed)}
            gone |= {key: now - moments[key[0]] for key in left}
            waiting -= left
        time.sleep(LOOK_EVERY_S)
    rows: list[tuple[str, ...]] = []
    for name in moments:
        for place in lists:
            seconds = gone.get((name, place))
            text = f"not within {GIVE_UP_S:.0f}" if seconds is None else f"{seconds:.1f}"
            free = seconds is not None and seconds <= FREE_WITHIN_S
            rows.append((name, place, text, "holds" if free else "**fails**"))
    return rows


def _restarts(settings: JoinsBench, place: _Place) -> list[tuple[str, ...]]:
    """A learner that was killed comes back: its version numbers go on, and its data is there."""
    with _publisher(place, settings.parameters[0]) as first:
        versions = [first.ask("publish", marked=True)["version"] for _ in range(3)]
        first.ask("settle")
        first.signal(signal.SIGKILL)
    with _publisher(place, settings.parameters[0]) as second:
        after = second.ask("publish", marked=True)["version"]
        second.ask("settle")
    place.weights.kill()
    place.weights.start()
    with _publisher(place, settings.parameters[0]) as third:
        last = third.ask("publish", marked=True)["version"]
    with Worker(f"{JOINS}:Newcomer", {"name": "actor"}, log=place.log) as actor:
        actor.ask("join_replay", url=place.replay.url)
        written = actor.ask("write", segments=settings.segments)
    with _learner(place, written) as before:
        before.ask("read", url=place.replay.url, transitions=written)
        before.signal(signal.SIGKILL)
    with _learner(place, written) as again:
        found = again.ask("read", url=place.replay.url, transitions=written)
    place.replay.stop()
    place.replay.start()
    with _learner(place, written) as anew:
        kept = anew.ask("read", url=place.replay.url, transitions=written)
    return [
        ("publisher, killed after version " + str(versions[-1]), f"its first version is {after}"),
        ("publisher and weights server, killed", f"its first version is {last}"),
        ("reader, killed while it follows", _found(found, written)),
        ("reader and replay server", _found(kept, written)),
    ]


def _learner(place: _Place, capacity: int) -> Worker:
    return Worker(f"{JOINS}:Learner", {"capacity": capacity}, log=place.log)


def _found(answer: dict[str, float], written: int) -> str:
    return f"{answer['received']:.0f} of {written} transitions after {answer['joined'] - answer['began']:.2f} s"
