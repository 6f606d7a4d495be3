"""Robots as numbers and MJCF: the UR5e arm and a parallel gripper. One file per machine."""
