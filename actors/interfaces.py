"""This module names what the episode loop needs: an environment, a policy, a guide, a sink and an operator.

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
    """The answer of a policy, one row per slot."""

    action: F32  # (n, 7)
    embedding: F32 | None  # (n, D) readouts of the frozen backbone
    version: int
    backbone_id: str


class EpisodeDropped(Exception):
    """A person wants nothing of the attempt under way to be kept; raised where the arm's only slot is stepped."""

    def __init__(self, *, again: bool) -> None:
        super().__init__("a person dropped the attempt")
        self.again = again
        """True where the same start is to come again."""


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """The result of one finished episode, for the guide and the report."""

    configuration: Configuration
    outcome: Outcome
    steps: int
    human_steps: int
    interventions: int
    version: int


class Environment(Protocol):
    """n slots that are reset one by one and step together."""

    n: int

    def reset(self, slot: int, configuration: Configuration) -> None:
        """Starts an episode in a slot."""
        ...

    def observe(self) -> Observation:
        """Returns the present observation of every slot (n rows)."""
        ...

    def step(self, action: F32) -> Step:
        """Executes actions (n, 7) for one control period."""
        ...


class Policy(Protocol):
    """Decides what every slot does next."""

    @property
    def window(self) -> int:
        """Number of observations that a decision is made from; asked for once an episode may begin."""
        ...

    def ready(self) -> str:
        """Returns what the policy waits for before an episode may begin, in one line; empty when it may."""
        ...

    def act(self, observation: Observation, pad: Bools | None) -> Decision:
        """Returns a decision per slot. With a window above 1 the observation holds windows (`actors.loop`)."""
        ...


class Guide(Protocol):
    """Chooses where episodes start."""

    def next(self) -> Configuration | None:
        """Returns the start of the next episode; None when there are no more."""
        ...

    def report(self, result: EpisodeResult) -> None:
        """Takes the result of a finished episode."""
        ...


class Sink(Protocol):
    """Takes the recorded segments."""

    def add(self, segment: Segment) -> None:
        """Takes one segment; may block."""
        ...


class Operator(Protocol):
    """A person or a script that may take over a slot."""

    def override(self, slot: int, step: int, observation: Observation) -> F32 | None:
        """Returns the operator's action (7,) for this slot now, or None to leave it to the policy."""
        ...
