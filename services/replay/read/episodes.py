"""Episodes as a reader has them: as segments with their numbers, as whole arrays, and with decoded frames."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from protos.codec import Numbers, Prefix, configuration_of
from protos.episode import Episode
from protos.images import decode_images
from protos.replay_pb2 import SegmentHeader
from protos.schema import F32, U8, Bools, Buffer, Observation, Outcome, Schema, Source

T = TypeVar("T", bound=np.generic)


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
    proprio: F32  # (T + 1, 25)
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
            backbone_id=self.backbone_id,
            observation=Observation(side=side, wrist=wrist, proprio=self.proprio),
            action=self.action,
            reward=self.reward,
            human=self.human,
            embedding=self.embedding,
            versions=(min(acted, default=-1), max(h.newest_version for h in headers)),
        )


def _decode_frames(piece: Piece, schema: Schema) -> tuple[U8, U8]:
    """Side and wrist images, (T + 1, px, px, 3) each."""
    assert piece.frames is not None, "an episode without its frames"
    header = piece.header
    return decode_images(piece.frames, header.codec, header.image_bytes, header.steps + 1, schema)


def _join(parts: list[NDArray[T]]) -> NDArray[T]:
    """Rows of consecutive pieces; each piece's last row but the final one is repeated by the next."""
    return np.concatenate([part[:-1] for part in parts[:-1]] + [parts[-1]])
