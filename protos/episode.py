"""This module holds an episode in its two forms: whole, and cut into the segments that travel.

    actor ─► Segment, Segment, … ─codec─► bytes ─► replay ─► Episode ─► Batch
    dataset folder ─────────────────────────────────────────► Episode ─► dataset folder

The replay, datasets, export, expansion, fidelity and fine-tuning read an `Episode`. An actor sends a `Segment`, before
the episode's outcome is known.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from protos.schema import CONTROL_HZ, F32, SEGMENT_STEPS, Bools, Configuration, Observation, Outcome, Source


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment is up to `SEGMENT_STEPS` consecutive transitions of one episode: T steps, T + 1 observations.

    Only an episode's last segment has an outcome other than RUNNING. Its last observation is the first one of the next
    segment.
    """

    task: str
    scene: str
    instruction: str
    configuration: Configuration
    episode: str
    """Unique name of the episode: actor, incarnation and count."""
    first_step: int
    outcome: Outcome
    source: Source
    policy_versions: tuple[int, int]
    """Oldest and newest weight version that acted in this segment; (-1, -1) for demonstrations."""
    backbone_id: str
    """Names the frozen backbone that computed `embedding`; empty without one."""
    observation: Observation  # T + 1 rows
    action: F32  # (T, 7), as executed
    reward: F32  # (T,)
    human: Bools  # (T,) a person (or the scripted operator) chose this action
    embedding: F32 | None = None  # (T + 1, D) readouts of the frozen backbone; None when the backbone is trained

    @property
    def steps(self) -> int:
        return len(self.action)

    def finite(self) -> bool:
        """Tells whether every number is finite."""
        arrays = [self.observation.proprio, self.action, self.reward]
        arrays += [] if self.embedding is None else [self.embedding]
        return all(bool(np.isfinite(array).all()) for array in arrays)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """An episode of T steps, or the part of one whose segments are known."""

    name: str
    instruction: str
    configuration: Configuration
    """Initial configuration. It has no poses where they are unknown; such an episode gives no auxiliary labels."""
    observation: Observation  # T + 1 rows; the last is repeated where a dataset stored only T
    action: F32  # (T, 7) in [-1, 1], as executed
    reward: F32  # (T,)
    human: Bools  # (T,) a person (or the scripted operator) chose this action
    outcome: Outcome
    """RUNNING when the end never arrived."""
    source: Source
    task: str = ""
    """Empty where a dataset does not name it, like `scene`."""
    scene: str = ""
    versions: tuple[int, int] = (-1, -1)
    """Oldest and newest weight version that acted; -1 for demonstrations."""
    backbone_id: str = ""
    embedding: F32 | None = None  # (T + 1, D) readouts of the backbone `backbone_id`
    hz: float | None = CONTROL_HZ
    """Steps per second; None where a dataset does not say."""
    mark: str = ""
    """Tells apart episodes that others recorded, whose names only say where they lie; empty where `name` does."""

    @property
    def steps(self) -> int:
        return len(self.action)

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> "Episode":
        """Joins consecutive segments; the observation that two of them share is kept once."""
        first, last = segments[0], segments[-1]
        seen = [segment.observation.rows(slice(0, segment.steps)) for segment in segments[:-1]] + [last.observation]
        readouts = [segment.embedding for segment in segments if segment.backbone_id == first.backbone_id]
        embeddings = [readout for readout in readouts if readout is not None]
        same = len(embeddings) == len(segments) and len({readout.shape[1] for readout in embeddings}) == 1
        embedding = np.concatenate([e[: len(rows)] for e, rows in zip(embeddings, seen, strict=True)]) if same else None
        acted = [segment.policy_versions[0] for segment in segments if segment.policy_versions[0] >= 0]
        return cls(
            name=first.episode,
            task=first.task,
            scene=first.scene,
            instruction=first.instruction,
            configuration=first.configuration,
            observation=Observation(
                side=np.concatenate([rows.side for rows in seen]),
                wrist=np.concatenate([rows.wrist for rows in seen]),
                proprio=np.concatenate([rows.proprio for rows in seen]),
            ),
            action=np.concatenate([segment.action for segment in segments]),
            reward=np.concatenate([segment.reward for segment in segments]),
            human=np.concatenate([segment.human for segment in segments]),
            outcome=last.outcome,
            source=first.source,
            versions=(min(acted, default=-1), max(segment.policy_versions[1] for segment in segments)),
            backbone_id=first.backbone_id if same else "",
            embedding=embedding,
        )

    def segments(self, *, name: str | None = None) -> Iterator[Segment]:
        """Cuts the episode into segments, under another name where one is given."""
        for begin in range(0, self.steps, SEGMENT_STEPS):
            end = min(begin + SEGMENT_STEPS, self.steps)
            taken, seen = slice(begin, end), slice(begin, end + 1)
            yield Segment(
                task=self.task,
                scene=self.scene,
                instruction=self.instruction,
                configuration=self.configuration,
                episode=self.name if name is None else name,
                first_step=begin,
                outcome=self.outcome if end == self.steps else Outcome.RUNNING,
                source=self.source,
                policy_versions=self.versions,
                backbone_id=self.backbone_id,
                observation=self.observation.rows(seen),
                action=np.ascontiguousarray(self.action[taken]),
                reward=self.reward[taken],
                human=self.human[taken],
                embedding=None if self.embedding is None else self.embedding[seen],
            )
