"""This room is the robot's computer: one UR arm, its cameras, limits, and the operator. No Ray, no learner.

     guide ── next configuration ──►┌────────────────────────── episode loop ──────────────────────────┐
     weights ── policy ────────────►│ robot.RealEnvironment                                            │
                                    │   arm.UrArm ── safety.Limits ── link (ur_rtde) ──► UR controller │
     operator (actors.human) ──────►│   gripper, cameras, hands                                        │
                                    └──── segments ──► actors.sinks ──► replay (spooled on disk first) ┘

The same code drives a real UR arm and the stand-in (`actors.simulated_ur`), which differs by nothing but the address
and by who handles objects and cameras. Limits, watchdog and hold are described in docs/safety.md.

    python -m actors.real demonstrate|evaluate|train --settings real.json --arm

The door exports the settings; `modes` and `robot`, which load ur_rtde and policies, are imported where they are used.
"""

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
    "TrainPlan",
    "UsbCameraSettings",
]
