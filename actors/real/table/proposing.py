"""This module proposes at the table that the task is solved, by what both cameras show; a person may overrule it.

    after each control step: tool, fingers ─► guard ─► both images ─► classifier ─► several steps in a row? ─► proposal
    proposal ─► "solved? proposed: yes (0.98)", the arm stands ─► a person's word ─────────────────────────► that word
                                                              └─► nobody says otherwise in time ───────────► success

It proposes success only: an attempt fails by a person's word, or by its time.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protos.errors import InputError
from protos.schema import Configuration, Observation, Schema
from protos.settings import bounded

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProposalSettings:
    """A classifier that `twinrl reward train` wrote, and the time that a person has to overrule it."""

    folder: Path
    answer_s: float = 3.0

    def __post_init__(self) -> None:
        bounded(self, "reward.", {"answer_s": (1.0, 30.0)})


class Proposer:
    """Looks after every control step of an attempt."""

    def __init__(
        self, settings: ProposalSettings, task: str, schema: Schema, *, say: Callable[[str], None] = log.info
    ) -> None:
        """Loads the classifier. Raises InputError for one of another task or other images."""
        from policy.reward import load_reward

        self._classifier, _ = load_reward(settings.folder)
        judges = self._classifier.settings
        if (judges.task, judges.schema) != (task, schema):
            raise InputError(
                f"{settings.folder}: judges {judges.task!r} by images of {judges.schema.side_px} and "
                f"{judges.schema.wrist_px} pixels; this arm does {task!r} with {schema.side_px} and {schema.wrist_px}"
            )
        self.answer_s, self._say = settings.answer_s, say
        self._start = Configuration(region="")
        self._chances: list[float] = []
        self.is_accepted = False
        """True once nobody has overruled the proposal, until the next attempt."""
        self.proposed = self.overruled = 0

    def begin(self, configuration: Configuration) -> None:
        """Forgets the attempt before."""
        self._start, self._chances, self.is_accepted = configuration, [], False

    def proposes(self, see: Callable[[], Observation], *, opens: bool) -> bool:
        """Returns True, and says so, when the task looks solved.

        `see` gives one row, `opens` says whether the gripper is told to open.
        """
        (chance,) = self._classifier.chances(see(), self._start, np.array([opens]))
        judges = self._classifier.settings
        self._chances = [*self._chances, float(chance)][-judges.steps :]
        least = min(self._chances)
        if len(self._chances) < judges.steps or least < judges.threshold:
            return False
        self._chances = []
        self.proposed += 1
        self._say(
            f"solved? proposed: yes ({least:.2f}). Within {self.answer_s:g} s failure (f and Enter, or its button) "
            "overrules it; stay clear until you are asked."
        )
        return True

    def answered(self, *, is_overruled: bool) -> None:
        """Takes the end of the time to overrule the proposal."""
        self.is_accepted = not is_overruled
        self.overruled += is_overruled
        self._say("overruled." if is_overruled else "solved, as proposed.")
