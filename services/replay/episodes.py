"""Puts the segments of an episode together again.

Segments of one episode arrive in order, among those of others. An episode is whole with the segment that tells its
outcome. Where that never comes (the actor died, or dropped the episode), the part that arrived is closed and bootstraps
like a timeout: when the actor's next incarnation shows up, when the same actor has gone on for long enough without it,
when a segment in the middle is missing, or when too many bytes wait.
"""

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from protos.codec import Numbers, configuration_of
from protos.frames import decode_images
from protos.prefix import Prefix
from protos.replay_pb2 import SegmentHeader
from protos.schema import F32, U8, Bools, Buffer, Configuration, Observation, Outcome, Schema, Source

T = TypeVar("T", bound=np.generic)

STALE_TURNS = 4
"""An open episode is given up when its actor has sent this many segments per slot without one of its own."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """T steps of one episode: all of it, or the part from which on, or up to which, segments are missing."""

    task: str
    scene: str
    instruction: str
    configuration: Configuration
    name: str
    outcome: Outcome
    """RUNNING when the end never arrived."""
    source: Source
    buffer: Buffer
    backbone_id: str
    observation: Observation  # T + 1 rows
    action: F32  # (T, 7)
    reward: F32  # (T,)
    human: Bools  # (T,)
    embedding: F32 | None  # (T + 1, D)
    versions: tuple[int, int]
    """Oldest and newest weight version that acted; -1 for demonstrations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One segment with its numbers decoded, and with its frames where they have been fetched."""

    prefix: Prefix
    header: SegmentHeader
    numbers: Numbers
    """Views of the head."""
    frames: memoryview | None
    """Encoded, and right by their checksum."""
    slot: int
    """Of the server's ring, where the blob is as long as it is not overwritten."""

    @property
    def held_bytes(self) -> int:
        """Of the blob, those that are here."""
        return self.prefix.head if self.frames is None else self.prefix.total


@dataclass(frozen=True, kw_only=True)
class Track:
    """Consecutive pieces of one episode as whole arrays; the frames stay in the pieces."""

    buffer: Buffer
    pieces: list[Piece]
    outcome: Outcome
    backbone_id: str
    proprio: F32  # (T + 1, 19)
    action: F32  # (T, 7)
    reward: F32  # (T,)
    human: Bools  # (T,)
    embedding: F32 | None  # (T + 1, D); None unless every piece has one of the same backbone
    version: NDArray[np.int64]  # (T,) oldest weight version of each step's segment
    newest_version: NDArray[np.int64]  # (T,)
    slot: NDArray[np.int64]  # (T + 1,) of the server's ring that holds each observation

    @property
    def actor(self) -> str:
        return self.pieces[0].header.actor

    @property
    def cell(self) -> int:
        return self.pieces[0].header.start.cell

    @property
    def source(self) -> Source:
        return Source(self.pieces[0].header.source)

    @property
    def has_frames(self) -> bool:
        return all(piece.frames is not None for piece in self.pieces)

    @classmethod
    def of(cls, buffer: Buffer, pieces: list[Piece]) -> "Track":
        """Joins pieces; the last observation of one is the first of the next."""
        numbers = [piece.numbers for piece in pieces]
        headers = [piece.header for piece in pieces]
        steps = [header.steps for header in headers]
        backbones = {header.backbone_id for header in headers}
        embeddings = [each.embedding for each in numbers if each.embedding is not None]
        same = len(backbones) == 1 and len(embeddings) == len(numbers)
        return cls(
            buffer=buffer,
            pieces=pieces,
            outcome=Outcome(headers[-1].outcome),
            backbone_id=backbones.pop() if same else "",
            proprio=_join([each.proprio for each in numbers]),
            action=np.concatenate([each.action for each in numbers]),
            reward=np.concatenate([each.reward for each in numbers]),
            human=np.concatenate([each.human for each in numbers]),
            embedding=_join(embeddings) if same else None,
            version=np.repeat([header.oldest_version for header in headers], steps),
            newest_version=np.repeat([header.newest_version for header in headers], steps),
            slot=np.repeat([piece.slot for piece in pieces], [*steps[:-1], steps[-1] + 1]),
        )

    def episode(self, schema: Schema) -> Episode:
        """Decodes the frames, which must be here. Raises CorruptData."""
        frames = [_decode_frames(piece, schema) for piece in self.pieces]
        side, wrist = (_join(list(camera)) for camera in zip(*frames, strict=True))
        headers = [piece.header for piece in self.pieces]
        first = headers[0]
        acted = [header.oldest_version for header in headers if header.oldest_version >= 0]
        return Episode(
            task=first.task,
            scene=first.scene,
            instruction=first.instruction,
            configuration=configuration_of(first),
            name=first.episode,
            outcome=self.outcome,
            source=Source(first.source),
            buffer=self.buffer,
            backbone_id=self.backbone_id,
            observation=Observation(side=side, wrist=wrist, proprio=self.proprio),
            action=self.action,
            reward=self.reward,
            human=self.human,
            embedding=self.embedding,
            versions=(min(acted, default=-1), max(h.newest_version for h in headers)),
        )


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


def _decode_frames(piece: Piece, schema: Schema) -> tuple[U8, U8]:
    """Side and wrist images, (T + 1, px, px, 3) each."""
    assert piece.frames is not None, "an episode without its frames"
    header = piece.header
    return decode_images(piece.frames, header.codec, header.image_bytes, header.steps + 1, schema)


def _join(parts: list[NDArray[T]]) -> NDArray[T]:
    """Rows of consecutive pieces; each piece's last row but the final one is repeated by the next."""
    return np.concatenate([part[:-1] for part in parts[:-1]] + [parts[-1]])
