"""This module publishes the policy of a stage: it chooses the parts that travel, and what is said of them."""

from learner.rl import Updater
from learner.stage.checkpoint import scale_entry, stored_scale
from learner.stage.settings import RlSettings
from policy.model import PARTS
from policy.settings import PolicySettings
from protos.settings import to_json
from protos.tensors import WireDtype, part_sha256
from services.weights import WeightPublisher

_BACKBONE = "backbone"


class Publication:
    """Publishes the policy that an updater trains.

    A frozen backbone travels exactly, with the first version of this process alone, and every version names it in its
    settings (`backbone_id`), so that an actor refuses a version that holds another one.
    """

    def __init__(self, settings: RlSettings, policy: PolicySettings, updater: Updater, *, lease: int = 0) -> None:
        """Publishes under the lease with this number, 0 for none.

        Raises Unreachable when there is a weights service and it does not answer.
        """
        self._frozen = settings.update.actor.backbone == "frozen"
        self._schema_hash, self._policy, self._updater = settings.schema.hash, to_json(policy), updater
        self.scale = scale_entry(stored_scale(settings.policy))
        """The metres and radians of an action of 1, as they travel with the weights."""
        exact = (_BACKBONE,) if self._frozen else ()  # nobody compares the readouts of a backbone that trains
        self._wire: dict[str, WireDtype] = {part: "f32" if part in exact else settings.wire_dtype for part in PARTS}
        self._backbone_id = ""  # of a frozen one, once it is known
        self._sent = False
        self._publisher = None
        if settings.weights is not None:
            self._publisher = WeightPublisher(
                settings.weights,
                wire_dtype=settings.wire_dtype,
                exact=exact,
                credentials=settings.credentials,
                lease=lease,
            )

    def __call__(self) -> int:
        """Publishes the policy as it is now; returns the version's number, -1 without a service to publish to.

        Raises LeaseLost when the service has refused a version because another learner leads.
        """
        if self._publisher is None:
            return -1
        unchanged = (_BACKBONE,) if self._frozen and self._sent else ()
        parts = self._updater.parts([part for part in PARTS if part not in unchanged])
        if self._frozen and not self._backbone_id:
            self._backbone_id = part_sha256(parts[_BACKBONE])
        named = {"backbone_id": self._backbone_id} if self._frozen else {}
        version = self._publisher.publish(
            parts,
            settings={"policy": self._policy, **named, **self.scale},
            unchanged=unchanged,
            schema_hash=self._schema_hash,
        )
        self._sent = True
        return version

    def sha256(self) -> dict[str, str]:
        """Returns the name of each part as it is now, under which it arrives when it is published."""
        known = {_BACKBONE: self._backbone_id} if self._backbone_id else {}
        parts = self._updater.parts([part for part in PARTS if part not in known])
        names = known | {part: part_sha256(tensors, self._wire[part]) for part, tensors in parts.items()}
        if self._frozen:
            self._backbone_id = names[_BACKBONE]
        return names

    def flush(self, timeout_s: float) -> None:
        """Waits until the last version has arrived. Raises Unreachable when it has not in time."""
        if self._publisher is not None:
            self._publisher.wait(timeout_s)

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.close()
