"""This module draws both cameras of n twins.

    physics ─► poses ─► moving splats ─┬─► side: background drawn once per camera pose ─┐
               (late)                  └─► wrist: small static layer ───────────────────┴─► sensor ─► images

What a slot's cameras see in an episode, sizes and colours included, is made once, for the first image of the episode.
By default the cost of an image does not depend on the size of the scan or of scanned objects, which are merged; with
`exact` the images are those of a full render of all splats, for evaluation and as the reference of the fast ones.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protos.schema import F32, F64, U8, Schema
from twin.camera import Camera, invert, pose_of
from twin.physics import Physics, build_model
from twin.randomize import TABLE_SHIFT, Conditions, Domain
from twin.render import kernels
from twin.render.appearance import Appearance, Appearances
from twin.render.cameras import ExactSide, FastSide, WristView
from twin.render.kernels import Layer, Workspace, expose
from twin.render.moving import PosedSplats, moving_splats
from twin.render.rasterizer import layer_of, view_of, workspace_for
from twin.scene import Scene


class _Buffers(NamedTuple):
    """The buffers of one thread."""

    moving: PosedSplats
    side: Workspace
    wrist: Workspace


class _Outfit(NamedTuple):
    """An outfit is what one slot's cameras see in one episode."""

    appearance: Appearance
    bodies: Layer
    side: FastSide | ExactSide
    wrist: WristView


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
        memory: int = 0,
    ) -> None:
        """Draws nothing yet. With `memory`, images may be as late as so many calls of `remember`."""
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
        unscaled = build_model(physics.robot, physics.task, domain.middle.unscaled)
        moving = moving_splats(unscaled, physics.robot, physics.task, thin=not exact, light=scene.light)
        self._buffers = [self._make_buffers(PosedSplats(moving)) for _ in range(threads)]
        self._painted = [int(physics.model.body(name).id) for name in physics.task.bodies]
        self._outfits: list[_Outfit | None] = [None] * physics.n
        self._delay, oldest = np.zeros(physics.n, int), max(memory, *domain.camera_delay_steps)
        bodies = physics.model.nbody
        self._past = np.zeros((oldest, physics.n, bodies, 3)), np.zeros((oldest, physics.n, bodies, 9))
        self._blur = scene.blur
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="splats") if threads > 1 else None
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Starts the appearances of all slots anew."""
        self._appearances = Appearances(self._physics.n, self._domain, seed, painted=len(self._painted))
        self._sides: dict[int, FastSide | ExactSide] = {}
        self._outfits = [None] * self._physics.n

    def start_episode(self, slot: int, conditions: Conditions) -> None:
        """Draws a new appearance for one slot, whose physics are where the episode starts."""
        self._appearances.reset(slot)
        self._outfits[slot] = None
        self._delay[slot] = conditions.camera_delay_steps
        for past, now in zip(self._past, (self._physics.body_positions, self._physics.body_rotations), strict=True):
            past[:, slot] = now[slot]

    def remember(self) -> None:
        """Notes where everything is at the beginning of a control step, for images that are late."""
        if self._past[0].size:
            for past, now in zip(self._past, (self._physics.body_positions, self._physics.body_rotations), strict=True):
                past[1:] = past[:-1].copy()
                past[0] = now

    def late(self, slot: int, remembered: int) -> None:
        """Makes the images of a slot as late as so many calls of `remember`, until its next episode starts."""
        self._delay[slot] = remembered

    def draw(self) -> None:
        """Updates `side` and `wrist` of every slot to the physics' state; a slot with NaN keeps its images."""
        drawable = np.flatnonzero(np.isfinite(self._physics.body_positions).all(axis=(1, 2)))
        for slot in drawable:
            if self._outfits[slot] is None:
                self._outfits[slot] = self._outfit(int(slot))
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
        moving = buffers.moving
        for slot in slots:
            outfit = self._outfits[slot]
            assert outfit is not None
            appearance, bodies, side, wrist = outfit
            positions, rotations = self._seen(slot)
            moving.wear(bodies)
            moving.pose(positions, rotations)
            side.draw(moving, buffers.side)
            seed = self._appearances.noise_seed(slot)
            self._develop(buffers.side.canvas, side.background, appearance, seed, self.side[slot])
            gripper = pose_of(positions[self._gripper], rotations[self._gripper])
            camera_from_base = appearance.wrist_pose @ self._camera_from_gripper @ invert(gripper)
            wrist.draw(moving, camera_from_base[:3].astype(np.float32), buffers.wrist)
            self._develop(buffers.wrist.canvas, wrist.background, appearance, ~seed, self.wrist[slot])

    def _seen(self, slot: int) -> tuple[F32, F32]:
        """Returns where the bodies of a slot are in its images: positions (bodies, 3), rotations (bodies, 3, 3)."""
        late = self._delay[slot]
        now = self._physics.body_positions, self._physics.body_rotations
        positions, rotations = (past[late - 1] for past in self._past) if late else now
        return positions[slot].astype(np.float32), rotations[slot].reshape(-1, 3, 3).astype(np.float32)

    def _outfit(self, slot: int) -> _Outfit:
        """Makes what a slot's cameras see in its episode."""
        appearance, scales = self._appearances[slot], self._physics.scales[slot]
        pose, posed = appearance.side_pose, self._buffers[0].moving
        if pose not in self._sides:
            kind = ExactSide if self._exact else FastSide
            self._sides[pose] = kind(self._static, _moved(self._camera, self._appearances.side_poses[pose]))
        side, wrist, bodies = self._sides[pose], self._wrist, posed.plain
        if appearance.tints.any():
            side, wrist = side.tinted(appearance.tints[0]), wrist.tinted(appearance.tints[0])
        if appearance.tints.any() or (scales != 1).any():
            tints = np.zeros((len(scales), 3), np.float32)
            tints[self._painted] = appearance.tints[1:]
            bodies = posed.dressed(scales, tints)
        return _Outfit(appearance=appearance, bodies=bodies, side=side, wrist=wrist)

    def _develop(self, canvas: F32, background: F32, appearance: Appearance, seed: int, image: U8) -> None:
        """Turns the canvas into the image that lens and sensor of this episode give."""
        if self._blur > 0:
            soften(canvas, background, self._blur * image.shape[1])
        if appearance.strength == 0 and (appearance.gains == 1).all():
            kernels.to_bytes(canvas, background, image)
        else:
            expose(canvas, background, appearance.gains, appearance.strength, seed, image)

    def _make_buffers(self, moving: PosedSplats) -> _Buffers:
        splats, px = len(moving) + (len(self._static.means) if self._exact else 0), self.side.shape[1]
        return _Buffers(moving=moving, side=workspace_for(splats, px, px), wrist=self._wrist.workspace(len(moving)))


def soften(canvas: F32, background: F32, deviation_px: float) -> None:
    """Blurs a canvas over its `background` (H, W, 3), which shows through no more, by a Gaussian bell, in place.

    The bell is made of passes of three taps, each of a variance up to one half, at which they are one.
    """
    width, passes = background.shape[1], math.ceil(2 * deviation_px**2)
    share = np.float32(deviation_px**2 / (2 * passes))
    image = canvas[:, :3, :width] + canvas[:, 3:4, :width] * background.transpose(0, 2, 1)
    for _ in range(passes):
        for axis in (0, 2):
            wide = np.pad(image, [(1, 1) if each == axis else (0, 0) for each in range(3)], mode="edge")
            before, after = (wide[:-2], wide[2:]) if axis == 0 else (wide[:, :, :-2], wide[:, :, 2:])
            image = image + share * (before - 2 * image + after)
    canvas[:, :3, :width], canvas[:, 3, :width] = image, 0.0


def _moved(camera: Camera, calibrated_from_actual: F64) -> Camera:
    return Camera(**vars(camera) | {"base_from_camera": camera.base_from_camera @ calibrated_from_actual})
