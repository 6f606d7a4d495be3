"""This module decides which twin actors to begin, kill or leave alone, from their stats.

    stats of one actor ──seen──► begin   a new incarnation, once its pause is over
                                 kill    an error, or no progress for `stall_s` although it does not wait
    no answer ──────────silent─► kill    nothing heard for `stall_s`

An incarnation that fails makes the next one wait: at once, 1 s, 2 s, 4 s, … one minute. A minute without a failure
resets the pause.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["", "begin", "kill"]

PAUSE_S = (1.0, 60.0)
"""Pause before the second incarnation after a failure, and the longest; it doubles in between."""
HEALTHY_S = 60.0
"""Time without a failure that resets the count of failures."""
LOST_S, LOST_PER_ACTOR_S = 4.0, 0.02
"""An actor that answered before and has been silent for longer is not counted among those that step; the rounds of a
fleet of hundreds take longer."""
START_S, START_PER_ACTOR_S = 300.0, 10.0
"""Longest wait for an actor's first answer, and for its first progress: Ray starts them one after the other."""
GATHER_S = 20.0
"""The first actors wait for the others to come up, whose time they would take by stepping; no longer than this after
the latest arrival."""


def pause_s(failures: int) -> float:
    """Returns the seconds to wait before the next incarnation after so many failures in a row."""
    first, longest = PAUSE_S
    return 0.0 if failures < 2 else float(min(longest, first * 2 ** min(failures - 2, 30)))


@dataclass(kw_only=True)
class _Actor:
    """The known state of one actor."""

    heard: float  # when it last answered
    moved: float  # when its loops last made progress, or waited
    incarnation: str = ""
    began: float | None = None
    turns: list[int] = field(default_factory=list)
    failures: int = 0  # in a row
    next: float = 0.0  # when it may begin
    killed: bool = False
    reason: str = ""  # of the last failure


class FleetWatch:
    """Judges actors 0 to n - 1 by their stats; it knows neither Ray nor any clock but `now`."""

    def __init__(self, actors: int, *, stall_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._stall_s, self._start_s, self._now = stall_s, START_S + START_PER_ACTOR_S * actors, now
        self._lost_s = LOST_S + LOST_PER_ACTOR_S * actors
        self._actors = [_Actor(heard=now(), moved=now()) for _ in range(actors)]
        self._gathering, self._arrived = True, now()
        self.restarts = 0
        self.stalls = 0

    def seen(self, index: int, stats: Mapping[str, Any]) -> Verdict:
        """Judges an actor by its answer."""
        now, actor = self._now(), self._actors[index]
        actor.heard = now
        if stats["incarnation"] != actor.incarnation:
            self._new_incarnation(actor, stats["incarnation"])
        if not stats["began"]:
            if now < actor.next or not self._gathered():
                return ""
            actor.began = actor.moved = now
            return "begin"
        return self._judge(actor, stats)

    def silent(self, index: int) -> Verdict:
        """Judges an actor that did not answer in this round."""
        actor = self._actors[index]
        limit = self._stall_s if actor.incarnation else self._start_s
        if actor.killed or self._now() - actor.heard < limit:
            return ""
        self.stalls += 1
        return self._kill(actor, f"no answer for {self._now() - actor.heard:.0f} s")

    def lost(self) -> set[int]:
        """Returns the actors that answered before and do not now."""
        now = self._now()
        known = [(index, actor) for index, actor in enumerate(self._actors) if actor.incarnation]
        return {index for index, actor in known if now - actor.heard > self._lost_s}

    def reason(self, index: int) -> str:
        """Returns the reason why the actor's last incarnation ended; empty when it is not known."""
        return self._actors[index].reason

    def paused(self) -> list[str]:
        """Returns a line for each actor that waits for its next incarnation."""
        now = self._now()
        return [
            f"twin-{index} failed {actor.failures} times in a row, next try in {actor.next - now:.0f} s: {actor.reason}"
            for index, actor in enumerate(self._actors)
            if actor.next > now
        ]

    def _gathered(self) -> bool:
        """Returns True once the fleet's first incarnations may begin."""
        late = self._now() - self._arrived > GATHER_S
        if late or all(actor.incarnation for actor in self._actors):
            self._gathering = False
        return not self._gathering

    def _new_incarnation(self, actor: _Actor, incarnation: str) -> None:
        now = self._now()
        if actor.incarnation:
            self.restarts += 1
            actor.failures += 1
            actor.reason = actor.reason or "its process ended"
            actor.next = now + pause_s(actor.failures)
        else:
            self._arrived = now
        actor.incarnation, actor.killed = incarnation, False
        actor.began, actor.turns, actor.moved = None, [], now

    def _judge(self, actor: _Actor, stats: Mapping[str, Any]) -> Verdict:
        now = self._now()
        if actor.killed:
            return ""
        if stats["error"]:
            return self._kill(actor, stats["error"])
        turns = list(stats.get("turns", []))
        waits = bool(stats.get("waits_for") or stats.get("throttled"))
        if waits or len(turns) != len(actor.turns) or all(a > b for a, b in zip(turns, actor.turns, strict=True)):
            actor.turns, actor.moved = turns, now
        limit = self._stall_s if actor.turns and min(actor.turns) > 1 else self._start_s
        if now - actor.moved >= limit:
            self.stalls += 1
            stuck = [group for group, (a, b) in enumerate(zip(turns, actor.turns, strict=True)) if a == b]
            return self._kill(actor, f"no progress of group {stuck} for {now - actor.moved:.0f} s")
        if actor.began is not None and now - actor.began > HEALTHY_S:
            actor.failures, actor.reason = 0, ""
        return ""

    @staticmethod
    def _kill(actor: _Actor, reason: str) -> Verdict:
        actor.killed, actor.reason = True, reason
        return "kill"
