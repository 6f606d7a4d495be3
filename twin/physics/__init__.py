"""The physics of n arms over their tables, behind one interface.

VectorTwin ─ reset, place, command, step ─► Physics ─┬─ mujoco_batch.py   MuJoCo, on the CPU; the default
◄─ joints, poses, wrench ────────────────┘
"""

from twin.physics.engines import make, names
from twin.physics.interface import Physics, Pose

__all__ = ["Physics", "Pose", "make", "names"]
