"""This room finds the scan's base frame and scale from the robot in it (TwinRL, section 3.2, L_align).

    scene folder, masks ─► views ─► coarse: ICP on the model's surface ─► fine: silhouettes on masks ─► Alignment
                                                                                                          │
    scene/ in the base frame: static.ply, report.json, alignment.png ◄── align_scene(folder, out, settings)┘

Poses are base_from_… matrices in metres; residuals are told in mm and px.
"""

from twin.align.alignment import Alignment, AlignSettings, align
from twin.align.robot import RobotModel, robot_model
from twin.align.scene import SceneAlignSettings, align_scene
from twin.align.views import FILE, CaptureCameras, on_masks, read_cameras, read_masks

__all__ = [
    "FILE",
    "AlignSettings",
    "Alignment",
    "CaptureCameras",
    "RobotModel",
    "SceneAlignSettings",
    "align",
    "align_scene",
    "on_masks",
    "read_cameras",
    "read_masks",
    "robot_model",
]
