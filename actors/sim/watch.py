"""Which twin actors to start, kill or leave alone, from what they say of themselves.

    stats of one actor ──seen──► begin   a new life, once its pause is over
                                 kill    an error, or no progress for `stall_s` although it waits for nobody
    no answer ──────────silent─► kill    nothing heard for `stall_s`

A life that ends early makes the next one wait: at once, 1 s, 2 s, 4 s, … one minute. A minute without a failure makes
up for it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["", "begin", "kill"]

PAUSE_S = (1.0, 60.0)
"""Before the second life after a failure, and the longest; it doubles in between."""
HEALTHY_S = 60.0
"""So long a life without a failure lets the ones before be forgotten."""
START_S, START_PER_ACTOR_S = 300.0, 10.0
"""Longest wait for an actor's first answer, and for its first progress: Ray starts them one after the other."""


GATHER_S = 20.0
"""The first actors wait for the others to come up, whose time they would take by stepping; no longer than this after
the latest arrival."""


def pause_s(failures: int) -> float:
    """Seconds to wait before the next life after so many failures in a row."""
    first, longest = PAUSE_S
    return 0.0 if failures < 2 else float(min(longest, first * 2 ** min(failures - 2, 30)))


@dataclass(kw_only=True)
class _Actor:
    """What is known of one actor."""

    heard: float  # when it last answered
    moved: float  # when its loops last made progress, or waited for somebody
    incarnation: str = ""
    began: float | None = None
    turns: list[int] = field(default_factory=list)
    failures: int = 0  # in a row
    next: float = 0.0  # when it may begin
    condemned: bool = False
    reason: str = ""  # of the last failure


class FleetWatch:
    """Judges actors 0 to n - 1. Knows nothing of Ray and of time but what it is told."""

    def __init__(self, actors: int, *, stall_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._stall_s, self._start_s, self._now = stall_s, START_S + START_PER_ACTOR_S * actors, now
        self._actors = [_Actor(heard=now(), moved=now()) for _ in range(actors)]
        self._gathering, self._arrived = True, now()
        self.restarts = 0
        self.stalls = 0

    def seen(self, index: int, stats: Mapping[str, Any]) -> Verdict:
        """Judges an actor by its answer."""
        now, actor = self._now(), self._actors[index]
        actor.heard = now
        if stats["incarnation"] != actor.incarnation:
            self._new_life(actor, stats["incarnation"])
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
        if actor.condemned or self._now() - actor.heard < limit:
            return ""
        self.stalls += 1
        return self._condemn(actor, f"no answer for {self._now() - actor.heard:.0f} s")

    def reason(self, index: int) -> str:
        """Why the actor's last life ended; empty when nothing is known of it."""
        return self._actors[index].reason

    def paused(self) -> list[str]:
        """Actors that wait for their next life, one line each."""
        now = self._now()
        return [
            f"twin-{index} failed {actor.failures} times in a row, next try in {actor.next - now:.0f} s: {actor.reason}"
            for index, actor in enumerate(self._actors)
            if actor.next > now
        ]

    def _gathered(self) -> bool:
        """Whether the fleet's first lives may begin."""
        late = self._now() - self._arrived > GATHER_S
        if late or all(actor.incarnation for actor in self._actors):
            self._gathering = False
        return not self._gathering

    def _new_life(self, actor: _Actor, incarnation: str) -> None:
        now = self._now()
        if actor.incarnation:
            self.restarts += 1
            actor.failures += 1
            actor.reason = actor.reason or "its process ended"
            actor.next = now + pause_s(actor.failures)
        else:
            self._arrived = now
        actor.incarnation, actor.condemned = incarnation, False
        actor.began, actor.turns, actor.moved = None, [], now

    def _judge(self, actor: _Actor, stats: Mapping[str, Any]) -> Verdict:
        now = self._now()
        if actor.condemned:
            return ""
        if stats["error"]:
            return self._condemn(actor, stats["error"])
        turns = list(stats.get("turns", []))
        waits = bool(stats.get("waits_for") or stats.get("throttled"))
        if waits or len(turns) != len(actor.turns) or all(a > b for a, b in zip(turns, actor.turns, strict=True)):
            actor.turns, actor.moved = turns, now
        limit = self._stall_s if actor.turns and min(actor.turns) > 1 else self._start_s
        if now - actor.moved >= limit:
            self.stalls += 1
            stuck = [group for group, (a, b) in enumerate(zip(turns, actor.turns, strict=True)) if a == b]
            return self._condemn(actor, f"no progress of group {stuck} for {now - actor.moved:.0f} s")
        if actor.began is not None and now - actor.began > HEALTHY_S:
            actor.failures, actor.reason = 0, ""
        return ""

    @staticmethod
    def _condemn(actor: _Actor, reason: str) -> Verdict:
        actor.condemned, actor.reason = True, reason
        return "kill"
