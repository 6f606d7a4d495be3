"""This module renders a twin as the side camera saw the arm's recorded episodes, from wherever the camera may stand.

    episodes ─► frames in which the tool stands still, before the first grasp ─► joints, bodies ─┐
    Calibration: camera and arm off their places ────────────────────────────────────────────────┴─► Drawn

A tool at rest looks the same however late the camera is; before the grasp the bodies lie where the configuration says.
Large images are made smaller: what is sought shows in all of them together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from protos.episode import Episode
from protos.schema import F32, F64, TCP_POSE, TCP_VELOCITY, U8
from twin.camera import Camera, pose_of
from twin.identify.motion import free_steps
from twin.kinematics import Kinematics
from twin.labs import Calibration
from twin.physics import make
from twin.randomize import TABLE_SHIFT, Domain
from twin.render.cameras import FastSide
from twin.render.kernels import Layer
from twin.render.moving import PosedSplats, moving_splats
from twin.render.rasterizer import draw, layer_of, workspace_for
from twin.rotations import matrix_from_vector
from twin.scene import Scene
from twin.tasks import Task, resting

STILL_M_S = 0.02
"""A tool that is slower than this, now and a step ago, stands still."""
MOST_PX = 64
OPAQUE = 0.5
"""Transmittance below which a pixel has a depth."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The frames of one episode."""

    images: F32  # (k, px, px, 3) 0..1
    joints: F64  # (k, joints)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One frame as the twin draws it: what moves over what stands still, and the depths of both [m]."""

    camera: Camera
    background: F32  # (px, px, 3)
    colour: F32  # (px, px, 3) of what moves
    transmittance: F32  # (px, px) 1 where nothing moves
    depths: tuple[F32, F32] | None = field(default=None, repr=False)
    """Depths (px, px) of what stands still and of what moves, each continued beyond its edges."""

    @property
    def image(self) -> F32:
        return self.colour + self.transmittance[..., None] * self.background


def base_of(calibration: Calibration) -> F64:
    """Returns the pose (4, 4) of the arm's base in the scene, where it should stand at the origin."""
    return pose_of(calibration.base_shift_m, matrix_from_vector(np.array(calibration.base_turn_rad)))


class Views:
    """The side camera's views of some episodes, in a twin that is in the middle of its domain."""

    def __init__(self, scene: Scene, task: Task, domain: Domain, episodes: Sequence[Episode]) -> None:
        shown = [(episode, _frames(scene, episode)) for episode in episodes if episode.configuration.poses]
        shown = [(episode, own) for episode, own in shown if len(own.images)]
        self.images: list[F32] = [own.images for _, own in shown]
        """Recorded images by episode, (k, px, px, 3) 0..1; an episode without a frame is left out."""
        self._side = scene.side
        static = scene.static.coloured(scene.static.colours + domain.colour_shift * np.asarray(TABLE_SHIFT))
        self._static = layer_of(static)
        if shown:
            self._place(scene, task, domain, shown)

    def _place(self, scene: Scene, task: Task, domain: Domain, shown: Sequence[tuple[Episode, Frames]]) -> None:
        joints = np.concatenate([own.joints for _, own in shown])
        poses = [task.body_poses(episode.configuration) for episode, own in shown for _ in own.joints]
        bodies = {name: np.concatenate([np.atleast_2d(each[name]) for each in poses]) for name in task.bodies}
        physics = make("mujoco", scene.robot, task, domain.still, n=len(joints))
        physics.reset(np.arange(len(joints)), joints, resting(task, bodies, domain.middle))
        model = physics.model
        self._positions = physics.body_positions.copy()
        self._rotations = physics.body_rotations.reshape(len(joints), -1, 3, 3).copy()
        self._of_arm = [body for body in range(1, model.nbody) if model.body(body).name not in task.bodies]
        physics.close()
        self._moving = PosedSplats(moving_splats(model, scene.robot, task, thin=True, light=scene.light))

    def camera(self, calibration: Calibration) -> Camera:
        """Returns the side camera of these images."""
        return calibration.side(self._side).camera(self.images[0].shape[1])

    def drawn(self, calibration: Calibration, *, depths: bool = False) -> list[Drawn]:
        """Draws all frames, in the order of the episodes, for a camera and an arm off their places."""
        camera, px = self.camera(calibration), self.images[0].shape[1]
        side, base = FastSide(self._static, camera), base_of(calibration)
        work, static_depth = workspace_for(len(self._moving), px, px), None
        if depths:
            static_depth = _depth(self._static, camera)
        found = []
        for number in range(len(self._positions)):
            self._pose(number, base)
            side.draw(self._moving, work)
            canvas = np.moveaxis(work.canvas, 1, 2)[:, :px]
            found.append(
                Drawn(
                    camera=camera,
                    background=side.background,
                    colour=canvas[..., :3].copy(),
                    transmittance=canvas[..., 3].copy(),
                    depths=None if static_depth is None else (static_depth, _depth(self._moving.layer, camera)),
                )
            )
        return found

    def _pose(self, number: int, base: F64) -> None:
        positions, rotations = self._positions[number].copy(), self._rotations[number].copy()
        positions[self._of_arm] = positions[self._of_arm] @ base[:3, :3].T + base[:3, 3]
        rotations[self._of_arm] = base[:3, :3] @ rotations[self._of_arm]
        self._moving.pose(positions.astype(np.float32), rotations.astype(np.float32))


def _frames(scene: Scene, episode: Episode) -> Frames:
    """Returns the first and the last of an episode's frames at rest, two different postures as a rule."""
    at_rest = still(episode)
    rows = sorted({*at_rest[:1], *at_rest[-1:]})
    poses = episode.observation.proprio[rows, TCP_POSE].astype(float)
    kinematics = Kinematics(scene.robot)
    joints = kinematics.start_joints(poses[:, :3])
    joints = kinematics.inverse(joints, poses[:, :3], matrix_from_vector(poses[:, 3:]), iterations=20)
    return Frames(images=_smaller(episode.observation.side[rows]), joints=joints)


def still(episode: Episode) -> list[int]:
    """Returns the steps before the grasp at which the tool stands still."""
    speeds = np.linalg.norm(episode.observation.proprio[: free_steps(episode) + 1, TCP_VELOCITY][:, :3], axis=1)
    slow = speeds < STILL_M_S
    rows: list[int] = np.flatnonzero(slow & np.append(True, slow[:-1])).tolist()
    return rows


def _smaller(images: U8) -> F32:
    """Returns images (k, px, px, 3) as 0..1, each pixel the mean of a square where there are more than `MOST_PX`."""
    k, px = images.shape[:2]
    factor = next(each for each in range(max(px // MOST_PX, 1), 0, -1) if px % each == 0)
    squares = images.reshape(k, px // factor, factor, px // factor, factor, 3).astype(np.float32) / 255
    return np.asarray(squares.mean((2, 4)), np.float32)


def _depth(layer: Layer, camera: Camera) -> F32:
    """Returns the depth of a layer, in empty pixels that of the nearest one that is not."""
    from scipy.ndimage import distance_transform_edt

    seen = draw(layer, camera, workspace_for(len(layer.means), camera.width, camera.height))
    nearest = distance_transform_edt(seen.transmittance >= OPAQUE, return_distances=False, return_indices=True)
    return np.asarray(seen.depth[tuple(nearest)], np.float32)
