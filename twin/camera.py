"""This module projects with pinhole cameras: x right, y down, z forward; the centre of pixel (0, 0) is (0.5, 0.5)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protos.errors import InputError
from protos.schema import F64


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera has a pose and a projection. Lengths of the image plane are pixels."""

    base_from_camera: F64  # (4, 4)
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        if np.shape(self.base_from_camera) != (4, 4):
            raise InputError(f"base_from_camera has shape {np.shape(self.base_from_camera)}; it must be (4, 4)")
        if min(self.width, self.height, self.fx, self.fy) <= 0:
            raise InputError(
                f"camera of {self.width} x {self.height} px with focal lengths {self.fx:g}, {self.fy:g}: "
                "all must be positive"
            )

    @property
    def camera_from_base(self) -> F64:
        """Inverse pose (4, 4)."""
        return invert(self.base_from_camera)

    @property
    def intrinsics(self) -> F64:
        """Matrix K (3, 3)."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    def project(self, points: ArrayLike) -> F64:
        """Projects base-frame points (..., 3) to pixels and depth (..., 3) = (u, v, z)."""
        pose = self.camera_from_base
        local = np.asarray(points, float) @ pose[:3, :3].T + pose[:3, 3]
        z = local[..., 2]
        return np.stack([self.fx * local[..., 0] / z + self.cx, self.fy * local[..., 1] / z + self.cy, z], -1)

    def resized(self, width: int, height: int) -> "Camera":
        """Returns the same view on another pixel grid."""
        sx, sy = width / self.width, height / self.height
        return Camera(
            base_from_camera=self.base_from_camera,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=self.cx * sx,
            cy=self.cy * sy,
        )


def invert(pose: ArrayLike) -> F64:
    """Inverts a rigid transform (4, 4)."""
    matrix = np.asarray(pose, float)
    inverse = np.eye(4)
    inverse[:3, :3] = matrix[:3, :3].T
    inverse[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return inverse


def pose_of(position: ArrayLike, rotation: ArrayLike) -> F64:
    """Returns a rigid transform (4, 4) from its two parts."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, position
    return pose


def pose_looking(position: ArrayLike, along: ArrayLike, right: ArrayLike) -> F64:
    """Returns a camera pose (4, 4) from its view direction; `right`, made square to it, becomes the image's x axis."""
    z = np.asarray(along, float) / np.linalg.norm(along)
    x = np.asarray(right, float) - np.dot(right, z) * z
    length = np.linalg.norm(x)
    if length < 1e-6:
        raise InputError(f"a camera that looks along {tuple(np.round(z, 3))} cannot have that axis to its right")
    x /= length
    return pose_of(position, np.stack([x, np.cross(z, x), z], 1))


def focal_length(fovy_deg: float, px: int) -> float:
    """Returns the focal length [px] of a vertical field of view."""
    if not 1 <= fovy_deg <= 170:
        raise InputError(f"field of view {fovy_deg:g} deg: 1 to 170 deg")
    return 0.5 * px / math.tan(math.radians(fovy_deg) / 2)


def square_camera(base_from_camera: NDArray[np.float64], *, fovy_deg: float, px: int) -> Camera:
    """Returns a camera with square pixels, a square image and its principal point in the middle."""
    focal = focal_length(fovy_deg, px)
    return Camera(base_from_camera=base_from_camera, width=px, height=px, fx=focal, fy=focal, cx=px / 2, cy=px / 2)


def look_at(
    eye: ArrayLike,
    *,
    along: ArrayLike | None = None,
    at: ArrayLike | None = None,
    fovy_deg: float,
    px: int,
) -> Camera:
    """Returns a square camera at `eye`, level with the horizon, that looks along a direction or at a point."""
    if (along is None) == (at is None):
        raise InputError("look_at: give either along=(direction) or at=(point)")
    direction = np.subtract(at, eye) if at is not None else np.asarray(along, float)
    return square_camera(pose_looking(eye, direction, np.cross(direction, (0, 0, 1))), fovy_deg=fovy_deg, px=px)
