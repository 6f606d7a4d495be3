"""This module draws the twin's two cameras.

The side camera stands still, so what does not move is drawn once per camera pose:

    fast   static ─once─► colour + median depth ─┐
           moving ──────────────────────────────►┴─ depth test, blend ─► canvas        any scan at the same cost
    exact  static ─once─► footprints + canvas ─┐
           moving ────────────────────────────►┴─ sort, blend the blocks that moving splats touch ─► canvas

The exact canvas is that of a full render to the last bit: a pixel in a block of 8 x 8 that no moving splat touches has
the same splats in the same order as without any, and every other one is blended anew. In both modes what moves wins
against what stands still a little behind: splats sort by their centres, and those of a disc on the table and of the
table would alternate.

The wrist camera moves with the tool, so every image is drawn from scratch:

    fast   static ─once─► crop, merge voxels ─┐
    exact  static as it is ───────────────────┴─ with what moves near the tool: sort, blend ─► canvas
"""

from copy import copy
from typing import Self

import numba
import numpy as np

from protos.schema import F32
from twin.camera import Camera
from twin.render import interface, kernels
from twin.render.kernels import BLOCK, I32, JIT, Layer, View, Workspace
from twin.render.lanes import LANES
from twin.render.moving import PosedSplats
from twin.render.rasterizer import append, draw, footprints, layer_of, tinted, view_of, workspace_for
from twin.scene import Scene
from twin.splats import Splats, merge_to

STOP = 0.004
"""Transmittance at which a pixel of the fast mode is finished: one grey level."""
DEPTH_SLACK_M = 0.012
"""Distance behind a static splat up to which a moving one is drawn in front."""


class FastSide:
    """The side camera with the static scene as one image with depth."""

    def __init__(self, static: Layer, camera: Camera) -> None:
        behind = draw(static, camera, workspace_for(len(static.means), camera.width, camera.height), stop=STOP)
        self.background = behind.over()
        self._covered = 1 - behind.transmittance[..., None]
        self._limit = behind.depth + np.float32(DEPTH_SLACK_M)
        self._view, self._size = view_of(camera), (camera.width, camera.height)

    def tinted(self, tint: F32) -> Self:
        """Returns the view of a scene with `tint` (3,) added to its colours."""
        other = copy(self)
        other.background = self.background + self._covered * tint
        return other

    def draw(self, moving: PosedSplats, work: Workspace) -> None:
        """Draws the moving splats in front of the background, on the canvas; `work` has room for them."""
        count = moving.footprints(self._view, *self._size, work, 0)
        kernels.sort_by_depth(work, count)
        kernels.clear(work, self._limit)
        kernels.blend(work, count, STOP)


class ExactSide:
    """The side camera with the static scene as footprints, sorted anew with the moving ones for every image."""

    def __init__(self, static: Layer, camera: Camera) -> None:
        self._view, self._size = view_of(camera), (camera.width, camera.height)
        work = workspace_for(len(static.means), *self._size)
        self._count = footprints(static, camera, work, 0)
        kernels.sort_by_depth(work, self._count)
        kernels.clear(work)
        kernels.blend(work, self._count, interface.STOP)
        self._rows = work.footprints[: self._count].copy()
        self._depth = work.depth[: self._count] + np.float32(DEPTH_SLACK_M)
        self._canvas = work.canvas.copy()
        self.background = np.zeros((camera.height, camera.width, 3), np.float32)

    def tinted(self, tint: F32) -> Self:
        """Returns the view of a scene with `tint` (3,) added to its colours."""
        other = copy(self)
        other._rows, other._canvas = self._rows.copy(), self._canvas.copy()
        other._rows[:, 6:9] += tint
        covered = 1 - self._canvas[:, 3:4, : self._size[0]]
        other._canvas[:, :3, : self._size[0]] += covered * tint[:, None]
        return other

    def draw(self, moving: PosedSplats, work: Workspace) -> None:
        """Draws static and moving splats together, on the canvas; `work` has room for all of them."""
        static, (width, height) = self._count, self._size
        work.footprints[:static], work.depth[:static] = self._rows, self._depth
        count = moving.footprints(self._view, width, height, work, static)
        kernels.sort_by_depth(work, count)
        kernels.clear(work)
        restore(work, touched(work, static, count), self._canvas)
        kernels.blend(work, count, interface.STOP)


@numba.njit(**JIT)
def touched(work: Workspace, first: int, count: int) -> I32:
    """Marks the blocks (rows, columns) that footprints `first` to `count` may touch, as 0 or 1."""
    height, width = work.canvas.shape[0], work.canvas.shape[2] - LANES
    blocks = np.zeros_like(work.blocks)
    for i in range(first, count):
        row = work.footprints[i]
        u, v, half_w, half_h = row[0], row[1], row[10], row[11]
        for j in range(max(0, int(v - half_h)) // BLOCK, min(height - 1, int(v + half_h)) // BLOCK + 1):
            for k in range(max(0, int(u - half_w)) // BLOCK, min(width - 1, int(u + half_w)) // BLOCK + 1):
                blocks[j, k] = 1
    return blocks


@numba.njit(**JIT)
def restore(work: Workspace, blocks: I32, canvas: F32) -> None:
    """Fills the untouched blocks from `canvas` and closes them: no splat is nearer than their limit of 0."""
    for y in range(canvas.shape[0]):
        for x in range(canvas.shape[2] - LANES):
            if blocks[y // BLOCK, x // BLOCK] == 0:
                work.canvas[y, :4, x] = canvas[y, :4, x]
                work.canvas[y, 4, x] = 0
                work.blocks[y // BLOCK, x // BLOCK] = 0


BIAS_M = 0.02
"""Distance by which the static layer is sorted farther away: what moves is above the table."""
VOXEL_M, SPLATS = 0.025, 2500
"""Size of the merged static splats, and their largest number; larger voxels are tried until they fit."""
MARGIN_M = 0.05


class WristView:
    """The wrist camera moves with the tool, so that every image is drawn from scratch."""

    def __init__(self, static: Splats, scene: Scene, intrinsics: F32, px: int, *, exact: bool) -> None:
        """Takes intrinsics (4,) fx, fy, cx, cy of square images of `px` pixels."""
        self._static = layer_of(static if exact else wrist_static(static, scene))
        self._stop = interface.STOP if exact else STOP
        self._intrinsics, self._px = intrinsics, px
        self.background = np.zeros((px, px, 3), np.float32)

    def tinted(self, tint: F32) -> Self:
        """Returns the view of a scene with `tint` (3,) added to its colours."""
        other = copy(self)
        other._static = tinted(self._static, tint)
        return other

    def workspace(self, moving: int) -> Workspace:
        """Returns buffers for so many moving splats and the static ones."""
        return workspace_for(moving + len(self._static.means), self._px, self._px)

    def draw(self, moving: PosedSplats, camera_from_base: F32, work: Workspace) -> None:
        """Draws one image on the canvas, from the camera pose (3, 4)."""
        view, px = View(camera_from_base, self._intrinsics), self._px
        near = moving.footprints(view, px, px, work, 0, wrist=True)
        count = append(self._static, view, px, px, work, near)
        work.depth[near:count] += np.float32(BIAS_M)
        kernels.sort_by_depth(work, count)
        kernels.clear(work)
        kernels.blend(work, count, self._stop)


def wrist_static(static: Splats, scene: Scene) -> Splats:
    """Crops the scan to the workspace and merges it to at most `SPLATS` splats, for the wrist camera."""
    space = scene.workspace
    low = np.array([space.x[0], space.y[0], space.z[0]]) - MARGIN_M
    high = np.array([space.x[1], space.y[1], space.z[1]]) + MARGIN_M
    inside = ((static.means >= low) & (static.means <= high)).all(axis=1)
    return merge_to(static[np.flatnonzero(inside)], SPLATS, VOXEL_M)
