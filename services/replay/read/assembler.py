"""Puts the segments of an episode together again.

Segments of one episode arrive in order, among those of others. An episode is whole with the segment that tells its
outcome. Where that never comes (the actor died, or dropped the episode), the part that arrived is closed and bootstraps
like a timeout: when the actor's next incarnation shows up, when the same actor has gone on for long enough without it,
when a segment in the middle is missing, or when too many bytes wait.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from protos.schema import Buffer, Outcome
from services.replay.read.episodes import Piece, Track
from services.replay.read.position import OpenActor, OpenEpisode, SegmentRef

STALE_TURNS = 4
"""An open episode is given up when its actor has sent this many segments per slot without one of its own."""


@dataclass(kw_only=True)
class _Open:
    """An episode whose outcome has not arrived."""

    pieces: list[Piece] = field(default_factory=list)
    next_step: int
    turn: int = 0
    """The actor's segment count when this episode last got one."""
    bytes: int = 0


@dataclass(kw_only=True)
class _Actor:
    incarnation: str
    turn: int = 0
    slots: int = 0
    """Most episodes that were open at once."""
    open: dict[str, _Open] = field(default_factory=dict)


class Assembler:
    """Collects the segments of one buffer; gives back every episode that is whole or will get no more."""

    def __init__(self, buffer: Buffer, *, max_waiting_bytes: int) -> None:
        self.buffer, self.max_waiting_bytes = buffer, max_waiting_bytes
        self.cut_short = 0
        """Episodes, or parts of one, closed without an outcome."""
        self.waiting_bytes = 0
        """Of the segments of open episodes, as far as they were fetched."""
        self.open = 0
        """Episodes that wait for more."""
        self._actors: dict[str, _Actor] = {}

    def add(self, piece: Piece) -> list[Track]:
        """Takes a segment; the segments of one actor come in the order in which they were written."""
        header = piece.header
        actor = self._actors.setdefault(header.actor, _Actor(incarnation=header.incarnation))
        closed: list[Track] = []
        if actor.incarnation != header.incarnation:
            closed += [self._close(actor, name) for name in list(actor.open)]
            actor.incarnation = header.incarnation
        waiting = actor.open.get(header.episode)
        if waiting is not None and waiting.next_step != header.first_step:
            closed.append(self._close(actor, header.episode))
        self._append(actor, piece)
        if Outcome(header.outcome) is not Outcome.RUNNING:
            closed.append(self._close(actor, header.episode))
        return closed + self._close_stale(actor) + self._close_oldest()

    def state(self) -> tuple[OpenActor, ...]:
        """What `restore` needs."""
        return tuple(
            OpenActor(
                actor=name,
                incarnation=actor.incarnation,
                turn=actor.turn,
                slots=actor.slots,
                episodes=tuple(
                    OpenEpisode(turn=waiting.turn, segments=tuple(map(SegmentRef.of, waiting.pieces)))
                    for waiting in actor.open.values()
                ),
            )
            for name, actor in self._actors.items()
        )

    def restore(self, actors: Sequence[OpenActor], found: Iterable[list[Piece] | None]) -> None:
        """Goes on from there; `found` has the segments of each open episode in turn, None where they are gone."""
        each = iter(found)
        for known in actors:
            actor = self._actors[known.actor] = _Actor(incarnation=known.incarnation)
            for episode in known.episodes:
                pieces = next(each) or []
                for piece in pieces:
                    self._append(actor, piece)
                if pieces:
                    actor.open[pieces[0].header.episode].turn = episode.turn
            actor.turn, actor.slots = known.turn, known.slots

    def _append(self, actor: _Actor, piece: Piece) -> None:
        header = piece.header
        if header.episode not in actor.open:
            actor.open[header.episode] = _Open(next_step=header.first_step)
            self.open += 1
        waiting = actor.open[header.episode]
        actor.turn += 1
        actor.slots = max(actor.slots, len(actor.open))
        waiting.pieces.append(piece)
        waiting.next_step += header.steps
        waiting.turn = actor.turn
        waiting.bytes += piece.held_bytes
        self.waiting_bytes += piece.held_bytes

    def _close(self, actor: _Actor, name: str) -> Track:
        waiting = actor.open.pop(name)
        self.open -= 1
        self.waiting_bytes -= waiting.bytes
        track = Track.of(self.buffer, waiting.pieces)
        self.cut_short += track.outcome is Outcome.RUNNING
        return track

    def _close_stale(self, actor: _Actor) -> list[Track]:
        patience = STALE_TURNS * actor.slots
        stale = [name for name, waiting in actor.open.items() if actor.turn - waiting.turn > patience]
        return [self._close(actor, name) for name in stale]

    def _close_oldest(self) -> list[Track]:
        closed = []
        while self.waiting_bytes > self.max_waiting_bytes:
            actor = next(actor for actor in self._actors.values() if actor.open)
            closed.append(self._close(actor, next(iter(actor.open))))
        return closed
