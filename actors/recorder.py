"""This module cuts episodes into segments.

An episode's observations are kept until 16 transitions are together (or the episode ends), then leave as one `Segment`
with 17 observations. The observation after a segment's last step is the first of the next one, so a segment closes when
the next observation arrives.
"""

from dataclasses import dataclass, field

import numpy as np

from actors.interfaces import Decision, EpisodeResult
from protos.episode import Segment
from protos.schema import F32, SEGMENT_STEPS, Configuration, Observation, Outcome, Source, Step


@dataclass(frozen=True, kw_only=True)
class EpisodeTags:
    """The fields that every segment of an actor shares."""

    actor: str
    incarnation: str
    task: str
    scene: str
    instruction: str
    source: Source


@dataclass
class _Pending:
    """Steps that have not left as a segment yet."""

    observations: list[Observation] = field(default_factory=list)
    embeddings: list[F32] = field(default_factory=list)
    actions: list[F32] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    human: list[bool] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    backbones: list[str] = field(default_factory=list)


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
    pending: _Pending = field(default_factory=_Pending)


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
        """Returns the number of steps done in the slot's episode so far."""
        return self._slots[slot].steps

    def record(
        self, slot: int, observation: Observation, decision: Decision, step: Step, *, human: bool
    ) -> Segment | None:
        """Adds one transition; returns a segment when this observation closes a full one."""
        state = self._slots[slot]
        segment = None
        if len(state.pending.actions) == SEGMENT_STEPS:
            self._observe(state, observation, decision, slot)
            segment = self._cut(state)
        self._observe(state, observation, decision, slot)
        pending = state.pending
        pending.actions.append(step.executed[slot].copy())
        pending.rewards.append(float(step.reward[slot]))
        pending.human.append(human)
        pending.versions.append(-1 if human else decision.version)
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
        self._observe(state, observation, decision, slot)
        segment = self._cut(state)
        result = EpisodeResult(
            configuration=state.configuration,
            outcome=state.outcome,
            steps=state.steps,
            human_steps=state.human_steps,
            interventions=state.interventions,
            version=state.version,
        )
        return segment, result

    def stop(self, slot: int) -> Segment | None:
        """Closes an episode that cannot go on, with its newest observation and outcome STOPPED.

        The step behind that observation, whose result nobody saw, is dropped; without another since the segment before
        there is nothing to close, and None is returned.
        """
        state = self._slots.pop(slot, None)
        if state is None or len(state.pending.actions) < 2:
            return None
        pending = state.pending
        for steps in (pending.actions, pending.rewards, pending.human, pending.versions):
            del steps[-1]
        state.steps -= 1
        state.outcome = Outcome.STOPPED
        return self._cut(state)

    def _observe(self, state: _Slot, observation: Observation, decision: Decision, slot: int) -> None:
        state.pending.observations.append(observation.rows([slot]))
        if decision.embedding is not None:
            state.pending.embeddings.append(decision.embedding[slot].copy())
        state.pending.backbones.append(decision.backbone_id)

    def _cut(self, state: _Slot) -> Segment:
        """Returns the pending steps, and the observation behind them, as a segment; the slot keeps none of them.

        A segment that saw two backbones leaves without embeddings: the learner computes them again from the images.
        """
        pending, state.pending = state.pending, _Pending()
        seen = pending.observations
        whole = len(pending.embeddings) == len(seen) and len(set(pending.backbones)) == 1
        versions = [v for v in pending.versions if v >= 0] or [-1]
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
            backbone_id=pending.backbones[-1] if whole else "",
            observation=Observation(
                side=np.concatenate([one.side for one in seen]),
                wrist=np.concatenate([one.wrist for one in seen]),
                proprio=np.concatenate([one.proprio for one in seen]),
            ),
            action=np.stack(pending.actions),
            reward=np.asarray(pending.rewards, np.float32),
            human=np.asarray(pending.human, bool),
            embedding=np.stack(pending.embeddings) if whole else None,
        )
        state.first_step = state.steps
        return segment
