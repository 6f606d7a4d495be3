"""This module asks many Ray actors at once, and knows which of them are away.

ask("stats") ─► a call to each that owes no answer ─► answers within the deadline: {index: answer}
later ones come with the next round
the process ended: away, until it answers again
"""

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

log = logging.getLogger(__name__)


class Roster:
    """The actors 0 to n - 1 of a fleet. Ray restarts a dead one's process; a call to it fails or waits until then."""

    def __init__(self, actors: Sequence["ActorHandle"]) -> None:
        self._actors = actors
        self._owed: dict[ObjectRef[Any], int] = {}
        self.away: set[int] = set()
        """Those whose process ended and that have not answered since."""

    def rounds(self, method: str, within_s: float) -> dict[int, Any]:
        """Calls a method of all in rounds, always the same; nobody who owes the answer of an earlier round is asked."""
        owing = set(self._owed.values())
        self._call(self._owed, method, (index for index in range(len(self._actors)) if index not in owing), {})
        return self._answers(self._owed, within_s)

    def ask(self, method: str, indices: Iterable[int], within_s: float, **arguments: Any) -> dict[int, Any]:
        """Calls a method of some once; what is not answered by then is lost."""
        calls: dict[ObjectRef[Any], int] = {}
        self._call(calls, method, indices, arguments)
        return self._answers(calls, within_s)

    def _call(
        self, calls: dict["ObjectRef[Any]", int], method: str, indices: Iterable[int], arguments: dict[str, Any]
    ) -> None:
        for index in indices:
            calls[getattr(self._actors[index], method).remote(**arguments)] = index

    def _answers(self, calls: dict["ObjectRef[Any]", int], within_s: float) -> dict[int, Any]:
        """Takes those calls out that have been answered, or have failed."""
        if not calls:
            return {}
        answers = {}
        for reference in ray.wait(list(calls), num_returns=len(calls), timeout=within_s)[0]:
            index = calls.pop(reference)
            try:
                answers[index] = ray.get(reference)
            except ray.exceptions.RayError as error:
                log.info("twin actor %d did not answer (%s)", index, type(error).__name__)
                self.away.add(index)
        back = self.away & answers.keys()
        if back:
            log.warning("twin actor(s) %s are back", sorted(back))
        self.away -= back
        return answers
