"""The wrist camera: it moves with the tool, so every picture is a render of its own.

fast   static ─once─► crop, merge voxels ─┐
exact  static as it is ───────────────────┴─ with what moves near the tool: sort, blend ─► canvas
"""

import numpy as np

from protos.schema import F32
from twin.render import interface, kernels
from twin.render.kernels import View, Workspace
from twin.render.posed import PosedSplats
from twin.render.rasterizer import append, layer_of, workspace_for
from twin.render.side import STOP
from twin.scene import Scene
from twin.splats import Splats, merge_to

BIAS_M = 0.02
"""The static layer is sorted this much farther away: what moves is above the table."""
VOXEL_M, SPLATS = 0.025, 2500
"""Size of the merged static splats, and the most there may be; larger voxels are tried until they fit."""
MARGIN_M = 0.05


class WristView:
    """Draws what the wrist camera sees."""

    def __init__(self, static: Splats, scene: Scene, intrinsics: F32, px: int, *, exact: bool) -> None:
        """`intrinsics` (4,) are fx, fy, cx, cy of square pictures of `px` pixels."""
        self._static = layer_of(static if exact else wrist_static(static, scene))
        self._stop = interface.STOP if exact else STOP
        self._intrinsics, self._px = intrinsics, px
        self.background = np.zeros((px, px, 3), np.float32)

    def workspace(self, moving: int) -> Workspace:
        """Buffers for so many moving splats and the static ones."""
        return workspace_for(moving + len(self._static.means), self._px, self._px)

    def draw(self, moving: PosedSplats, camera_from_base: F32, work: Workspace) -> None:
        """One picture on the canvas, from the camera pose (3, 4)."""
        view, px = View(camera_from_base, self._intrinsics), self._px
        near = moving.footprints(view, px, px, work, 0, wrist=True)
        count = append(self._static, view, px, px, work, near)
        work.depth[near:count] += np.float32(BIAS_M)
        kernels.sort_by_depth(work, count)
        kernels.clear(work)
        kernels.blend(work, count, self._stop)


def wrist_static(static: Splats, scene: Scene) -> Splats:
    """The scan as the wrist camera sees it: cropped to the workspace and merged to at most `SPLATS`."""
    space = scene.workspace
    low = np.array([space.x[0], space.y[0], space.z[0]]) - MARGIN_M
    high = np.array([space.x[1], space.y[1], space.z[1]]) + MARGIN_M
    inside = ((static.means >= low) & (static.means <= high)).all(axis=1)
    return merge_to(static[np.flatnonzero(inside)], SPLATS, VOXEL_M)
