"""This module publishes a policy in training: the parts that changed, under the id of the whole."""

from learner.rl import Updater
from learner.stage.checkpoint import scale_entry, stored_scale
from learner.stage.settings import RlSettings
from policy.identity import EXACT, joined_id, part_digest
from policy.model import Parts
from policy.settings import PolicySettings
from protos.settings import to_json
from services.weights import WeightPublisher

PARTS = ("backbone", "head")


class Publication:
    """Publishes what an updater trains. A frozen backbone travels with the first version of this process alone."""

    def __init__(self, settings: RlSettings, policy: PolicySettings, updater: Updater) -> None:
        """Raises Unreachable when there is a weights service and it does not answer."""
        self._frozen = settings.update.actor.backbone == "frozen"
        self._schema_hash, self._policy, self._updater = settings.schema.hash, to_json(policy), updater
        self.scale = scale_entry(stored_scale(settings.policy))
        """What an action of 1 means, as it travels with the weights."""
        self._dtype = settings.wire_dtype
        self._exact = EXACT if self._frozen else ()  # readouts of a backbone that trains are nobody's to compare
        self._digests: dict[str, str] = {}
        self._sent = False
        self._publisher = None
        if settings.weights is not None:
            self._publisher = WeightPublisher(
                settings.weights, wire_dtype=self._dtype, exact=self._exact, credentials=settings.credentials
            )

    def __call__(self) -> int:
        """Publishes the policy as it is now; the version's number, -1 without a service to publish to."""
        if self._publisher is None:
            return -1
        unchanged = ("backbone",) if self._frozen and self._sent else ()
        parts = self._updater.parts([name for name in PARTS if name not in unchanged])
        version = self._publisher.publish(
            parts,
            settings={"policy": self._policy, "weights_id": self._identify(parts), **self.scale},
            unchanged=unchanged,
            schema_hash=self._schema_hash,
        )
        self._sent = True
        return version

    def weights_id(self) -> str:
        """The id of the policy as it is now, with the values that arrive when it is published."""
        known = ("backbone",) if self._frozen and "backbone" in self._digests else ()
        return self._identify(self._updater.parts([name for name in PARTS if name not in known]))

    def _identify(self, parts: Parts) -> str:
        for name, arrays in parts.items():
            self._digests[name] = part_digest(arrays, "f32" if name in self._exact else self._dtype)
        return joined_id(self._digests)

    def see_through(self, timeout_s: float) -> None:
        """Waits until the last version has arrived. Raises Unreachable when it has not in time."""
        if self._publisher is not None:
            self._publisher.wait(timeout_s)

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.close()
