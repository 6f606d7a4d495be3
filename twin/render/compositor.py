"""Both cameras of n twins.

    side    static scene ─once─► colour + median depth ─┐
            moving splats ─────────────────────────────►┴─ depth test, blend ─► image
    wrist   static scene ─once─► crop, merge voxels ─┐
            fingers and task bodies ────────────────►┴─ sort, blend ─► image

The cost of a picture does not depend on the size of the scan.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protos.schema import U8, Schema
from twin.camera import invert, pose_of
from twin.physics import Physics
from twin.randomize import TABLE_SHIFT, Domain
from twin.render import kernels
from twin.render.kernels import Layer, View, Workspace
from twin.render.moving import moving_splats
from twin.render.rasterizer import layer_of, rasterize, view_of, workspace_for
from twin.scene import Scene
from twin.splats import Splats, merge_voxels

STOP = 0.004
"""Transmittance at which a pixel is finished: one grey level."""
DEPTH_SLACK_M = 0.012
"""A moving splat wins this far behind the background: thin things that lie on the table would flicker without it."""
WRIST_BIAS_M = 0.02
"""The static layer is sorted this much farther away: what moves is above the table."""
WRIST_VOXEL_M, WRIST_SPLATS = 0.025, 2500
"""Size of the merged static splats, and the most there may be; larger voxels are tried until they fit."""
WRIST_MARGIN_M = 0.05


class _Buffers(NamedTuple):
    moved: Layer  # moving splats in the base frame
    side: Workspace
    wrist: Workspace


class TwinRenderer:
    """Draws slots of one `Physics` into images that it owns."""

    def __init__(self, scene: Scene, physics: Physics, domain: Domain, schema: Schema, threads: int = 1) -> None:
        task = physics.task
        moving = moving_splats(physics.model, physics.robot, task.bodies, task.splat_spacing)
        static = scene.static.coloured(scene.static.colours + domain.colour_shift * np.asarray(TABLE_SHIFT))
        camera = scene.side.camera(schema.side_px, domain.camera_shift_m)
        behind = rasterize(static, camera, stop=STOP)
        self._moving, self._local = moving, layer_of(moving.splats)
        self._static = layer_of(wrist_static(static, scene))
        self._side, self._background = view_of(camera), behind.over()
        self._limit = behind.depth + np.float32(DEPTH_SLACK_M)
        px = schema.wrist_px
        self._black, self._no_limit = np.zeros((px, px, 3), np.float32), np.full((px, px), kernels.FAR)
        gripper_from_tcp = np.eye(4)
        gripper_from_tcp[2, 3] = physics.robot.gripper.tcp_m
        self._gripper = int(physics.model.body("gripper").id)
        self._camera_from_gripper = invert(gripper_from_tcp @ scene.wrist.tcp_from_camera)
        self._wrist_intrinsics = view_of(scene.wrist.camera(px, np.eye(4))).intrinsics
        self._physics = physics
        self.side: U8 = np.zeros((physics.n, schema.side_px, schema.side_px, 3), np.uint8)
        self.wrist: U8 = np.zeros((physics.n, px, px, 3), np.uint8)
        self._buffers = [self._make_buffers() for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="splats") if threads > 1 else None

    def draw(self) -> None:
        """Updates `side` and `wrist` of every slot to the physics' state; a slot with NaN keeps its pictures."""
        drawable = np.flatnonzero(np.isfinite(self._physics.body_positions).all(axis=(1, 2)))
        shares = np.array_split(drawable, len(self._buffers))
        if self._pool is None:
            self._draw(shares[0], self._buffers[0])
        else:
            list(self._pool.map(self._draw, shares, self._buffers))

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _draw(self, slots: NDArray[np.intp], buffers: _Buffers) -> None:
        physics = self._physics
        for slot in slots:
            positions = physics.body_positions[slot].astype(np.float32)
            rotations = physics.body_rotations[slot].reshape(-1, 3, 3).astype(np.float32)
            kernels.move(self._local, self._moving.body, positions, rotations, buffers.moved)
            self._draw_side(buffers, self.side[slot])
            gripper = pose_of(positions[self._gripper], rotations[self._gripper])
            camera_from_base = (self._camera_from_gripper @ invert(gripper))[:3].astype(np.float32)
            self._draw_wrist(buffers, View(camera_from_base, self._wrist_intrinsics), self.wrist[slot])

    def _draw_side(self, buffers: _Buffers, image: U8) -> None:
        work, px = buffers.side, len(image)
        count = kernels.project(buffers.moved, 0, self._side, px, px, work, 0)
        kernels.sort_by_depth(work, count)
        kernels.clear(work)
        kernels.blend(work, count, self._limit, STOP)
        kernels.to_bytes(work.canvas, self._background, image)

    def _draw_wrist(self, buffers: _Buffers, view: View, image: U8) -> None:
        work, px = buffers.wrist, len(image)
        moving = kernels.project(buffers.moved, self._moving.first_wrist, view, px, px, work, 0)
        count = kernels.project(self._static, 0, view, px, px, work, moving)
        work.depth[moving:count] += np.float32(WRIST_BIAS_M)
        kernels.sort_by_depth(work, count)
        kernels.clear(work)
        kernels.blend(work, count, self._no_limit, STOP)
        kernels.to_bytes(work.canvas, self._black, image)

    def _make_buffers(self) -> _Buffers:
        moving, static = len(self._local.opacities), len(self._static.opacities)
        means, covariances = np.empty((moving, 3), np.float32), np.empty((moving, 6), np.float32)
        side, wrist = self.side.shape[1], self.wrist.shape[1]
        return _Buffers(
            moved=self._local._replace(means=means, covariances=covariances),
            side=workspace_for(moving, side, side),
            wrist=workspace_for(moving + static, wrist, wrist),
        )


def wrist_static(static: Splats, scene: Scene) -> Splats:
    """The scan as the wrist camera sees it: cropped to the workspace and merged to at most `WRIST_SPLATS`."""
    space = scene.workspace
    low = np.array([space.x[0], space.y[0], space.z[0]]) - WRIST_MARGIN_M
    high = np.array([space.x[1], space.y[1], space.z[1]]) + WRIST_MARGIN_M
    inside = ((static.means >= low) & (static.means <= high)).all(axis=1)
    near = static[np.flatnonzero(inside)]
    size = WRIST_VOXEL_M
    merged = merge_voxels(near, size)
    while len(merged) > WRIST_SPLATS:
        size *= 1.15
        merged = merge_voxels(near, size)
    return merged
