"""This room keeps the arm away from itself, the table and the scene's obstacles.

    kinematics.MODELS, twin.robots ─► shapes: bars around links, gripper, fingers ────┐
    arm.obstacles (boxes, scanned objects) ─► obstacles: hulls of planes ─┴─► guard: gaps of postures ─► stream

It works on numbers alone, since the driver's process loads no physics.
"""

from actors.real.collisions.guard import Guard
from actors.real.collisions.obstacles import Hull, load_hulls

__all__ = ["Guard", "Hull", "load_hulls"]
