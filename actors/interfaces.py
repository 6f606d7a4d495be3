"""What the episode loop needs of a world, a policy, a guide, a place to put data, and an operator.

operator.override? ─┐
policy.act ─────────┴─► environment.step ─► Step ─► recorder ─► sink.add
guide.next ─► policy.ready? ─► environment.reset             guide.report ◄─ EpisodeResult
"""

from dataclasses import dataclass
from typing import Protocol

from protos.episode import Segment
from protos.schema import F32, Bools, Configuration, Observation, Outcome, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What the policy answers, one row per slot."""

    action: F32  # (n, 7)
    embedding: F32 | None  # (n, D) readout of the frozen backbone
    version: int
    backbone_id: str


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """One finished episode, as the guide and the report want it."""

    configuration: Configuration
    outcome: Outcome
    steps: int
    human_steps: int
    interventions: int
    version: int


class Environment(Protocol):
    n: int

    def reset(self, slot: int, configuration: Configuration) -> None: ...
    def observe(self) -> Observation: ...
    def step(self, action: F32) -> Step: ...


class Policy(Protocol):
    @property
    def window(self) -> int:
        """Observations that a decision is made from; asked for once `ready` said that an episode may begin."""
        ...

    def ready(self) -> str:
        """Empty when an episode may begin, else what the policy waits for, in one line. Asked again until it is."""
        ...

    def act(self, observation: Observation, pad: Bools | None) -> Decision:
        """One decision per slot. With a window above 1 the observation holds windows (`actors.loop`)."""
        ...


class Guide(Protocol):
    def next(self) -> Configuration | None:
        """Where the next episode starts; None when there are no more."""
        ...

    def report(self, result: EpisodeResult) -> None: ...


class Sink(Protocol):
    def add(self, segment: Segment) -> None: ...


class Operator(Protocol):
    """A person, or a script that stands in for one, who may take over a slot."""

    def override(self, slot: int, step: int, observation: Observation) -> F32 | None:
        """The operator's action (7,) for this slot now, or None to leave it to the policy."""
        ...
