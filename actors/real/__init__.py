"""This room is the robot's computer: one UR arm, its cameras, limits, and the operator. No Ray, no learner.

     guide ── next configuration ──►┌────────────────────────── episode loop ──────────────────────────┐
     weights ── policy ────────────►│ robot.RealEnvironment: gripper, cameras, hands                   │
                                    │   driver.ArmClient                                               │
     operator (actors.human) ──────►└───┬──────────────── segments ──► actors.sinks ──► replay (spooled on disk first)
                                        │ a process of its own
                                        └──► arm.UrArm ── safety.Limits ── link (ur_rtde) ──► UR controller

The same code drives a real UR arm and the stand-in (`actors.simulated_ur`), which differs by nothing but the address
and by who handles objects and cameras. Limits, watchdog and hold are described in docs/safety.md.

    python -m actors.real demonstrate|evaluate|train --settings real.json --arm

The door exports the settings, and loads a module when one of its names is asked for: the driver's process needs none of
the services that the settings name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.real.arm import ArmSettings
    from actors.real.gripper import GripperSettings
    from actors.real.pendant import PendantSettings
    from actors.real.safety import LimitSettings
    from actors.real.settings import (
        ConsoleLab,
        DemonstratePlan,
        EvaluatePlan,
        RealSettings,
        SimulatedLab,
        Station,
        TrainPlan,
    )
    from actors.real.table.cameras import UsbCameraSettings

__all__ = [
    "ArmSettings",
    "ConsoleLab",
    "DemonstratePlan",
    "EvaluatePlan",
    "GripperSettings",
    "LimitSettings",
    "PendantSettings",
    "RealSettings",
    "SimulatedLab",
    "Station",
    "TrainPlan",
    "UsbCameraSettings",
]


_HOMES = {
    "ArmSettings": "arm",
    "GripperSettings": "gripper",
    "LimitSettings": "safety",
    "PendantSettings": "pendant",
    "UsbCameraSettings": "table.cameras",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"actors.real.{_HOMES.get(name, 'settings')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
