"""This module says what a lab is, and makes the workspace that it is of the one that was scanned."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from protos.errors import InputError
from protos.schema import F64
from protos.settings import bounded
from twin.camera import pose_of
from twin.labs.surroundings import Surroundings
from twin.randomize import DOMAINS, Domain
from twin.robots import Robot, Transform
from twin.rotations import matrix_from_vector, quaternion_from_matrix
from twin.scene import Scene, SideCamera, WristCamera

Triple = tuple[float, float, float]
ZERO: Triple = (0.0, 0.0, 0.0)
MOST_M, MOST_RAD = 0.1, 0.2
"""Bounds of a calibration's errors; beyond them nobody would start to work."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A calibration's errors: where things really are, less where the twin has them."""

    base_shift_m: Triple = ZERO
    """Base of the arm, in the scene's base frame."""
    base_turn_rad: Triple = ZERO
    """Rotation vector, in the scene's base frame."""
    tool_shift_m: Triple = ZERO
    """Gripper on the flange, in the flange's frame."""
    side_shift_m: Triple = ZERO
    """Side camera, in the scene's base frame."""
    side_turn_rad: tuple[float, float] = (0.0, 0.0)
    """Pan about the vertical and tilt downwards of the side camera."""
    side_fovy_deg: float = 0.0
    """Field of view of the side camera."""
    wrist_turn_rad: Triple = ZERO
    """Direction of the wrist camera: a rotation vector in the tool's frame."""

    def __post_init__(self) -> None:
        for name, most in (("shift_m", MOST_M), ("turn_rad", MOST_RAD)):
            for each in vars(self):
                if each.endswith(name) and not (np.abs(getattr(self, each)) <= most).all():
                    raise InputError(f"calibration {each}={getattr(self, each)}: each number from {-most} to {most}")
        bounded(self, "calibration ", {"side_fovy_deg": (-10.0, 10.0)})

    def robot(self, robot: Robot) -> Robot:
        """Returns the robot where it stands, with its gripper where it is bolted."""
        base = pose_of(self.base_shift_m, matrix_from_vector(np.array(self.base_turn_rad)))
        mount, tool = base @ robot.base_from_mount.matrix, robot.flange_from_gripper
        return replace(
            robot,
            base_from_mount=_transform(mount),
            flange_from_gripper=replace(tool, position=_triple(np.add(tool.position, self.tool_shift_m))),
        )

    def side(self, camera: SideCamera) -> SideCamera:
        """Returns the side camera where it stands."""
        pan, tilt = self.side_turn_rad
        along = matrix_from_vector(np.array([0.0, 0.0, pan])) @ np.array(camera.along)
        right = np.cross(along, (0.0, 0.0, 1.0))
        along = matrix_from_vector(-tilt * right / np.linalg.norm(right)) @ along
        return SideCamera(
            eye=_triple(np.add(camera.eye, self.side_shift_m)),
            along=_triple(along),
            fovy_deg=camera.fovy_deg + self.side_fovy_deg,
        )

    def wrist(self, camera: WristCamera) -> WristCamera:
        """Returns the wrist camera as it is mounted."""
        turned = matrix_from_vector(np.array(self.wrist_turn_rad)) @ np.array(camera.direction)
        return replace(camera, direction=_triple(turned))


@dataclass(frozen=True, kw_only=True)
class Drive:
    """A drive is how late and how fast the arm's controller, its gripper and its cameras are.

    The delays come on top of the whole control steps that the domain draws for every episode.
    """

    servo_delay_s: float = 0.0
    """Delay of every command to the joints and to the fingers."""
    servo_jitter_s: float = 0.0
    """Standard deviation of that delay, drawn for every command to the joints; commands never overtake each other."""
    camera_delay_s: float = 0.0
    camera_jitter_s: float = 0.0
    """Standard deviation of that delay, drawn for every image."""
    gripper_speed: float | None = None
    """Strokes per second of the gripper; None: as fast as its fingers get."""
    grip_force: float = 1.0
    """Force of the fingers over that of the robot's model."""

    def __post_init__(self) -> None:
        names = ("servo_delay_s", "servo_jitter_s", "camera_delay_s", "camera_jitter_s")
        bounded(self, "drive ", dict.fromkeys(names, (0.0, 0.5)) | {"grip_force": (0.2, 3.0)})
        if self.gripper_speed is not None:
            bounded(self, "drive ", {"gripper_speed": (0.1, 20.0)})


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A lab is one workspace as it is."""

    name: str = "standin"
    """Its seed, or the name of its domain."""
    domain: Domain = field(default_factory=lambda: DOMAINS["standin"])
    calibration: Calibration = field(default_factory=Calibration)
    drive: Drive = field(default_factory=Drive)
    surroundings: Surroundings = field(default_factory=Surroundings)

    def workspace(self, scene: Scene) -> Scene:
        """Returns a scanned scene as it really is here; the arm's controller and the twin do not know it."""
        calibration, robot = self.calibration, scene.robot
        gripper = replace(robot.gripper, force_n=robot.gripper.force_n * self.drive.grip_force)
        return replace(
            scene,
            static=self.surroundings.seen(scene.static),
            side=calibration.side(scene.side),
            wrist=calibration.wrist(scene.wrist),
            robot=calibration.robot(replace(robot, gripper=gripper)),
            light=self.surroundings.light,
            blur=self.surroundings.blur,
        )


def _triple(numbers: ArrayLike) -> Triple:
    x, y, z = (float(value) for value in np.asarray(numbers))
    return x, y, z


def _transform(pose: F64) -> Transform:
    w, x, y, z = (float(value) for value in quaternion_from_matrix(pose[:3, :3]))
    return Transform(position=_triple(pose[:3, 3]), quaternion=(w, x, y, z))
