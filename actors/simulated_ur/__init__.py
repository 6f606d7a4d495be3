"""This room simulates a UR controller that the real ur_rtde client connects to, with MuJoCo physics behind it.

    ur_rtde ──30003──► ports.ScriptPort   the uploaded URScript starts the program
            ──30004──► rtde.py ──inputs──► controller.py ──► commands.Program ──► motion.SimulatedArm (servo, …)
            ◄──state──    │                     │                                          │ joint targets
            ──29999──► dashboard ──► pendant     │ motion.RobotClock: robot time            ▼
    gripper ──63352──► ports.Gripper ───────────┴────────────────────────────────► world.py ─► twin.world.ArmWorld
    lab     ──30100──► ports.LabServer    images, placing objects, success (what a person in a lab does and sees)

It listens on one loopback address of its own (127.0.0.N), because the ports of a UR controller are fixed. It is a
process of its own, started with `python -m actors.simulated_ur --settings FILE`; the robot side (`actors.real`) knows
nothing of it but the address and the messages of `actors.lab`.

What it leaves out of a real controller is listed in docs/limits.md. The wrench is the one that the physics reports,
plus what the force sensor's zero is off by.
"""

from actors.simulated_ur.pendant import Pendant
from actors.simulated_ur.settings import StandinSettings

__all__ = ["Pendant", "StandinSettings"]
