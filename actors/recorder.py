"""Cuts episodes into segments.

An episode's frames are kept until 16 transitions are together (or the episode ends), then leave as one `Segment` with
17 observations. The observation after a segment's last step is the first of the next one, so a segment closes when
the next observation arrives.
"""

from dataclasses import dataclass, field

import numpy as np

from actors.interfaces import Decision, EpisodeResult
from protos.episode import Segment
from protos.schema import F32, SEGMENT_STEPS, Configuration, Observation, Outcome, Source, Step


@dataclass(frozen=True, kw_only=True)
class EpisodeTags:
    """What every segment of this actor carries."""

    actor: str
    incarnation: str
    task: str
    scene: str
    instruction: str
    source: Source


@dataclass(kw_only=True)
class _Slot:
    configuration: Configuration
    episode: str
    first_step: int = 0
    steps: int = 0
    human_steps: int = 0
    interventions: int = 0
    was_human: bool = False
    outcome: Outcome = Outcome.RUNNING
    version: int = -1
    observations: list[Observation] = field(default_factory=list)
    embeddings: list[F32] = field(default_factory=list)
    actions: list[F32] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    human: list[bool] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    backbones: list[str] = field(default_factory=list)


class EpisodeRecorder:
    """Collects the transitions of n slots; one instance per loop."""

    def __init__(self, tags: EpisodeTags) -> None:
        self.tags = tags
        self._slots: dict[int, _Slot] = {}
        self._count = 0

    def begin(self, slot: int, configuration: Configuration) -> None:
        """Starts an episode; an unfinished one in this slot is dropped."""
        name = f"{self.tags.actor}/{self.tags.incarnation}/{self._count}"
        self._slots[slot] = _Slot(configuration=configuration, episode=name)
        self._count += 1

    def step(self, slot: int) -> int:
        """Steps done in the slot's episode so far."""
        return self._slots[slot].steps

    def record(
        self, slot: int, observation: Observation, decision: Decision, step: Step, *, human: bool
    ) -> Segment | None:
        """Adds one transition; returns a segment when this observation closes a full one."""
        state = self._slots[slot]
        segment = None
        if len(state.actions) == SEGMENT_STEPS:
            segment = self._cut(state, observation, decision, slot)
        self._observe(state, observation, decision, slot)
        state.actions.append(step.executed[slot].copy())
        state.rewards.append(float(step.reward[slot]))
        state.human.append(human)
        state.versions.append(-1 if human else decision.version)
        state.steps += 1
        state.human_steps += human
        state.interventions += human and not state.was_human
        state.was_human, state.version = human, decision.version
        if step.terminated[slot]:
            state.outcome = Outcome.SUCCESS if step.success[slot] else Outcome.FAILURE
        elif step.truncated[slot]:
            state.outcome = Outcome.TIMEOUT
        return segment

    def finish(self, slot: int, observation: Observation, decision: Decision) -> tuple[Segment, EpisodeResult]:
        """Closes an ended episode with its last observation."""
        state = self._slots.pop(slot)
        assert state.outcome is not Outcome.RUNNING, f"slot {slot}: finish() before the episode ended"
        segment = self._cut(state, observation, decision, slot)
        result = EpisodeResult(
            configuration=state.configuration,
            outcome=state.outcome,
            steps=state.steps,
            human_steps=state.human_steps,
            interventions=state.interventions,
            version=state.version,
        )
        return segment, result

    def _observe(self, state: _Slot, observation: Observation, decision: Decision, slot: int) -> None:
        state.observations.append(observation.rows([slot]))
        if decision.embedding is not None:
            state.embeddings.append(decision.embedding[slot].copy())
        state.backbones.append(decision.backbone_id)

    def _cut(self, state: _Slot, observation: Observation, decision: Decision, slot: int) -> Segment:
        """The collected steps as a segment whose last observation is `observation`; empties the slot's lists.

        A segment that saw two backbones leaves without embeddings: the learner recomputes them from the frames.
        """
        self._observe(state, observation, decision, slot)
        frames = state.observations
        whole = len(state.embeddings) == len(frames) and len(set(state.backbones)) == 1
        versions = [v for v in state.versions if v >= 0] or [-1]
        segment = Segment(
            task=self.tags.task,
            scene=self.tags.scene,
            instruction=self.tags.instruction,
            configuration=state.configuration,
            episode=state.episode,
            first_step=state.first_step,
            outcome=state.outcome,
            source=self.tags.source,
            policy_versions=(min(versions), max(versions)),
            backbone_id=decision.backbone_id if whole else "",
            observation=Observation(
                side=np.concatenate([frame.side for frame in frames]),
                wrist=np.concatenate([frame.wrist for frame in frames]),
                proprio=np.concatenate([frame.proprio for frame in frames]),
            ),
            action=np.stack(state.actions),
            reward=np.asarray(state.rewards, np.float32),
            human=np.asarray(state.human, bool),
            embedding=np.stack(state.embeddings) if whole else None,
        )
        state.first_step = state.steps
        for sequence in (
            state.observations,
            state.embeddings,
            state.actions,
            state.rewards,
            state.human,
            state.versions,
            state.backbones,
        ):
            sequence.clear()
        return segment
