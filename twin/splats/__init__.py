"""This room keeps Gaussian splats: the arrays, operations on them, and their files.

3DGS PLY ─────────┐
compressed PLY ───┼─ read_splats ─► Splats ─► transformed, concatenate, merge_voxels ─► render
SPZ ──────────────┘     (z up)        └─ write_ply ─► 3DGS PLY
"""

from twin.splats.cloud import SH_DEGREE_0, SPREAD, Splats, concatenate, merge_to, merge_voxels
from twin.splats.files import UP_AXES, UpAxis, read_splats
from twin.splats.ply import read_ply, write_ply

__all__ = [
    "SH_DEGREE_0",
    "SPREAD",
    "UP_AXES",
    "Splats",
    "UpAxis",
    "concatenate",
    "merge_to",
    "merge_voxels",
    "read_ply",
    "read_splats",
    "write_ply",
]
