"""The task's expert in the operator's place."""

from protos.schema import F32, Observation
from twin.env import VectorTwin


class TwinExpert:
    """The twin's privileged expert as the loop's operator: it acts in every step."""

    def __init__(self, twin: VectorTwin) -> None:
        self._twin = twin
        self._actions: F32 | None = None
        self._seen: Observation | None = None

    def override(self, slot: int, step: int, observation: Observation) -> F32:
        if observation is not self._seen:
            self._actions, self._seen = self._twin.expert_action(), observation
        assert self._actions is not None
        return self._actions[slot]
