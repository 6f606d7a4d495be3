"""This module holds the arms of the comparison: each is real RL from some start, with or without what the twin gives.

All arms of a lab share its demonstrations, and those with the same start share every stage before real RL.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from twinrl.run.settings import RealRlPlan

ArmName = Literal["twinrl", "unguided", "no_twin_buffer", "no_twin_rl", "no_twin", "no_fine_tuning", "autonomous"]
StartName = Literal["twin_rl", "sft_ab", "sft_a", "untrained"]
"""The policy that real RL starts from: after twin RL; fine-tuned on the demonstrations of arm and twin, or of the arm
alone; as it was initialised."""
COLD_WARMUP = 1_500
"""Offline updates of critics that no earlier stage has trained."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to practise on the arm."""

    title: str
    start: StartName
    is_guided: bool = True
    """The twin's map of success says where to practise; else starts are uniform over the regions."""
    has_twin_buffer: bool = True
    """Batches draw on twin transitions, and successful twin episodes join the demonstrations."""
    operator: Literal["scripted", "none"] = "scripted"
    regions: tuple[str, ...] = ()
    """Regions to practise in; empty: all."""

    def plan(self, real_rl: RealRlPlan) -> RealRlPlan:
        """Returns the plan of real RL without what this arm does without."""
        plan = replace(real_rl, operator=self.operator, regions=self.regions)
        if not self.is_guided:
            plan = replace(plan, tau=0.0, scan=replace(plan.scan, actors=0))
        if not self.has_twin_buffer:
            plan = replace(plan, twin_share=0.0, seed_twin_episodes=0)
        if self.start != "twin_rl":
            plan = replace(plan, warmup_updates=COLD_WARMUP)
        return plan


ARMS: Mapping[ArmName, Arm] = {
    "twinrl": Arm(title="TwinRL", start="twin_rl"),
    "unguided": Arm(title="without guidance", start="twin_rl", is_guided=False),
    "no_twin_buffer": Arm(title="without twin buffer", start="twin_rl", has_twin_buffer=False),
    "no_twin_rl": Arm(title="without twin RL", start="sft_ab", has_twin_buffer=False),
    "no_twin": Arm(title="without twin (ConRFT)", start="sft_a", is_guided=False, has_twin_buffer=False),
    "no_fine_tuning": Arm(
        title="without fine-tuning (HIL-SERL)", start="untrained", is_guided=False, has_twin_buffer=False
    ),
    "autonomous": Arm(
        title="alone in B, from A",
        start="sft_a",
        is_guided=False,
        has_twin_buffer=False,
        operator="none",
        regions=("B",),
    ),
}
