"""Both cameras of n twins.

    side    static scene ─once─► colour + median depth ─┐
            moving splats ─────────────────────────────►┴─ depth test, blend ─► image
    wrist   static scene ─once─► crop, merge voxels ─┐
            fingers and task bodies ────────────────►┴─ sort, blend ─► image

The cost of a picture does not depend on the size of the scan.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from protos.schema import F32, U8, Schema
from twin.camera import invert
from twin.physics import Physics
from twin.randomize import TABLE_SHIFT, Domain
from twin.render import kernels
from twin.render.kernels import JIT, Layer, View, Workspace
from twin.render.moving import moving_splats
from twin.render.rasterizer import layer_of, rasterize, view_of, workspace_for
from twin.robots.gripper import TCP_M
from twin.rotations import F64
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


class Twin(NamedTuple):
    """What every picture of one renderer shares."""

    local: Layer  # moving splats in their body frames
    body: NDArray[np.int32]
    first_wrist: int
    static: Layer  # merged, for the wrist camera
    side: View
    background: F32  # (S, S, 3)
    limit: F32  # (S, S) depth of the background, slack included
    gripper: int  # body that carries the wrist camera
    camera_from_gripper: F32  # (3, 4)
    wrist_intrinsics: F32  # (4,)


class _Buffers(NamedTuple):
    moved: Layer
    side: Workspace
    wrist: Workspace
    black: F32  # (W, W, 3)
    no_limit: F32  # (W, W)


class TwinRenderer:
    """Draws slots of one `Physics` into images that it owns."""

    def __init__(self, scene: Scene, physics: Physics, domain: Domain, schema: Schema, threads: int = 1) -> None:
        task = physics.task
        moving = moving_splats(physics.model, physics.body_rotations[0], task.bodies, task.splat_spacing)
        static = scene.static.coloured(scene.static.colours + domain.colour_shift * np.asarray(TABLE_SHIFT))
        camera = scene.side.camera(schema.side_px, domain.camera_shift_m)
        behind = rasterize(static, camera, stop=STOP)
        wrist_layer = wrist_static(static, scene)
        gripper_from_tcp = np.eye(4)
        gripper_from_tcp[2, 3] = TCP_M
        camera_from_gripper = invert(gripper_from_tcp @ scene.wrist.tcp_from_camera)
        wrist = scene.wrist.camera(schema.wrist_px, np.eye(4))
        self._twin = Twin(
            local=layer_of(moving.splats),
            body=moving.body,
            first_wrist=moving.first_wrist,
            static=layer_of(wrist_layer),
            side=view_of(camera),
            background=behind.over(),
            limit=behind.depth + np.float32(DEPTH_SLACK_M),
            gripper=physics.model.body("gripper").id,
            camera_from_gripper=camera_from_gripper[:3].astype(np.float32),
            wrist_intrinsics=view_of(wrist).intrinsics,
        )
        self._physics = physics
        self.side: U8 = np.zeros((physics.n, schema.side_px, schema.side_px, 3), np.uint8)
        self.wrist: U8 = np.zeros((physics.n, schema.wrist_px, schema.wrist_px, 3), np.uint8)
        self._buffers = [_buffers(self._twin, schema) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="splats") if threads > 1 else None

    def draw(self) -> None:
        """Updates `side` and `wrist` of every slot to the physics' present state; a slot with NaN keeps its pictures."""
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
        _draw_slots(slots, physics.body_positions, physics.body_rotations, self._twin, buffers, self.side, self.wrist)


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


def _buffers(twin: Twin, schema: Schema) -> _Buffers:
    moving, static = len(twin.local.opacities), len(twin.static.opacities)
    moved = Layer(np.empty((moving, 3), np.float32), np.empty((moving, 6), np.float32), *twin.local[2:])
    px = schema.wrist_px
    return _Buffers(
        moved=moved,
        side=workspace_for(moving, schema.side_px, schema.side_px),
        wrist=workspace_for(moving + static, px, px),
        black=np.zeros((px, px, 3), np.float32),
        no_limit=np.full((px, px), kernels.FAR, np.float32),
    )


@numba.njit(**JIT)
def _draw_slots(
    slots: NDArray[np.intp], positions: F64, rotations: F64, twin: Twin, buffers: _Buffers, side: U8, wrist: U8
) -> None:
    bodies = positions.shape[1]
    t, R = np.empty((bodies, 3), np.float32), np.empty((bodies, 3, 3), np.float32)
    view = View(np.empty((3, 4), np.float32), twin.wrist_intrinsics)
    for slot in slots:
        for b in range(bodies):
            for i in range(3):
                t[b, i] = positions[slot, b, i]
                for j in range(3):
                    R[b, i, j] = rotations[slot, b, 3 * i + j]
        kernels.move(twin.local, twin.body, t, R, buffers.moved)
        _draw_side(twin, buffers, side[slot])
        _attach(twin.camera_from_gripper, t[twin.gripper], R[twin.gripper], view.camera_from_base)
        _draw_wrist(twin, buffers, view, wrist[slot])


@numba.njit(**JIT)
def _attach(camera_from_gripper: F32, t: F32, R: F32, out: F32) -> None:
    """camera_from_base (3, 4) of a camera fixed to the body at (t, R)."""
    for i in range(3):
        out[i, 3] = camera_from_gripper[i, 3]
        for j in range(3):
            out[i, j] = (
                camera_from_gripper[i, 0] * R[j, 0]
                + camera_from_gripper[i, 1] * R[j, 1]
                + camera_from_gripper[i, 2] * R[j, 2]
            )
        for j in range(3):
            out[i, 3] -= out[i, j] * t[j]


@numba.njit(**JIT)
def _draw_side(twin: Twin, buffers: _Buffers, image: U8) -> None:
    work = buffers.side
    count = kernels.project(buffers.moved, 0, twin.side, image.shape[1], image.shape[0], work, 0)
    kernels.sort_by_depth(work, count)
    kernels.clear(work)
    kernels.blend(work, count, twin.limit, STOP)
    kernels.to_bytes(work.canvas, twin.background, image)


@numba.njit(**JIT)
def _draw_wrist(twin: Twin, buffers: _Buffers, view: View, image: U8) -> None:
    work = buffers.wrist
    width, height = image.shape[1], image.shape[0]
    moving = kernels.project(buffers.moved, twin.first_wrist, view, width, height, work, 0)
    count = kernels.project(twin.static, 0, view, width, height, work, moving)
    for i in range(moving, count):
        work.depth[i] += np.float32(WRIST_BIAS_M)
    kernels.sort_by_depth(work, count)
    kernels.clear(work)
    kernels.blend(work, count, buffers.no_limit, STOP)
    kernels.to_bytes(work.canvas, buffers.black, image)
