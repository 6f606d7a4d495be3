"""This module draws both cameras of n twins.

    physics ─► poses ─► moving splats ─┬─► side: background drawn once per camera pose ─┐
                                       └─► wrist: small static layer ───────────────────┴─► sensor ─► images

By default the cost of an image does not depend on the size of the scan or of scanned objects, which are merged; with
`exact` the images are those of a full render of all splats, for evaluation and as the reference of the fast ones.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protos.schema import F32, F64, U8, Schema
from twin.camera import Camera, invert, pose_of
from twin.physics import Physics
from twin.randomize import TABLE_SHIFT, Domain
from twin.render import kernels
from twin.render.appearance import Appearance, Appearances
from twin.render.cameras import ExactSide, FastSide, WristView
from twin.render.kernels import Workspace, expose
from twin.render.moving import PosedSplats, moving_splats
from twin.render.rasterizer import layer_of, view_of, workspace_for
from twin.scene import Scene


class _Buffers(NamedTuple):
    """The buffers of one thread."""

    moving: PosedSplats
    side: Workspace
    wrist: Workspace


class TwinRenderer:
    """A renderer draws the slots of one `Physics` into images that it owns."""

    def __init__(
        self,
        scene: Scene,
        physics: Physics,
        domain: Domain,
        schema: Schema,
        threads: int = 1,
        *,
        exact: bool = False,
        seed: int = 0,
    ) -> None:
        self._physics, self._domain, self._exact = physics, domain, exact
        static = scene.static.coloured(scene.static.colours + domain.colour_shift * np.asarray(TABLE_SHIFT))
        self._static, self._camera = layer_of(static), scene.side.camera(schema.side_px, domain.camera_shift_m)
        wrist = view_of(scene.wrist.camera(schema.wrist_px, np.eye(4)))
        self._wrist = WristView(static, scene, wrist.intrinsics, schema.wrist_px, exact=exact)
        gripper_from_tcp = pose_of((0, 0, physics.robot.gripper.tcp_m), np.eye(3))
        self._gripper = int(physics.model.body("gripper").id)
        self._camera_from_gripper = invert(gripper_from_tcp @ scene.wrist.tcp_from_camera)
        self.side: U8 = np.zeros((physics.n, schema.side_px, schema.side_px, 3), np.uint8)
        self.wrist: U8 = np.zeros((physics.n, schema.wrist_px, schema.wrist_px, 3), np.uint8)
        moving = moving_splats(physics.model, physics.robot, physics.task, thin=not exact)
        self._buffers = [self._make_buffers(PosedSplats(moving)) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="splats") if threads > 1 else None
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Starts the appearances of all slots anew."""
        self._appearances = Appearances(self._physics.n, self._domain, seed)
        self._sides: dict[int, FastSide | ExactSide] = {}

    def start_episode(self, slot: int) -> None:
        """Draws a new appearance for one slot."""
        self._appearances.reset(slot)

    def draw(self) -> None:
        """Updates `side` and `wrist` of every slot to the physics' state; a slot with NaN keeps its images."""
        drawable = np.flatnonzero(np.isfinite(self._physics.body_positions).all(axis=(1, 2)))
        for pose in {self._appearances[int(slot)].side_pose for slot in drawable} - self._sides.keys():
            kind = ExactSide if self._exact else FastSide
            self._sides[pose] = kind(self._static, _moved(self._camera, self._appearances.side_poses[pose]))
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
        physics, moving = self._physics, buffers.moving
        for slot in slots:
            appearance = self._appearances[slot]
            positions = physics.body_positions[slot].astype(np.float32)
            rotations = physics.body_rotations[slot].reshape(-1, 3, 3).astype(np.float32)
            moving.pose(positions, rotations)
            side = self._sides[appearance.side_pose]
            side.draw(moving, buffers.side)
            seed = self._appearances.noise_seed(slot)
            self._develop(buffers.side.canvas, side.background, appearance, seed, self.side[slot])
            gripper = pose_of(positions[self._gripper], rotations[self._gripper])
            camera_from_base = appearance.wrist_pose @ self._camera_from_gripper @ invert(gripper)
            self._wrist.draw(moving, camera_from_base[:3].astype(np.float32), buffers.wrist)
            self._develop(buffers.wrist.canvas, self._wrist.background, appearance, ~seed, self.wrist[slot])

    def _develop(self, canvas: F32, background: F32, appearance: Appearance, seed: int, image: U8) -> None:
        """Turns the canvas into the image that the sensor of this episode gives."""
        if self._domain.sensor_noise == 0 and (appearance.gains == 1).all():
            kernels.to_bytes(canvas, background, image)
        else:
            expose(canvas, background, appearance.gains, self._domain.sensor_noise, seed, image)

    def _make_buffers(self, moving: PosedSplats) -> _Buffers:
        splats, px = len(moving) + (len(self._static.means) if self._exact else 0), self.side.shape[1]
        return _Buffers(moving=moving, side=workspace_for(splats, px, px), wrist=self._wrist.workspace(len(moving)))


def _moved(camera: Camera, calibrated_from_actual: F64) -> Camera:
    return Camera(**vars(camera) | {"base_from_camera": camera.base_from_camera @ calibrated_from_actual})
