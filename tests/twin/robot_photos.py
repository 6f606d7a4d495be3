"""This module makes views of a robot as a person with a phone takes them: cameras and masks.

Masks are cast with rays against the robot's model, then spoilt: ragged edges, holes, patches where nothing is. They
share nothing with the splats that alignment moves.
"""

import math

import cv2
import numpy as np

from twin import robots
from twin.align.refine import Similarity
from twin.align.robot import robot_model
from twin.camera import look_at
from twin.rotations import matrix_from_vector, vector_from_matrix

JOINTS = np.array(robots.get("ur5e").home)


def arc(count=6, px=240, span_deg=136.0):
    """Returns cameras on an arc in front of the robot, near and low, far and high in turn."""
    cameras = {}
    for index, angle in enumerate(np.radians(np.linspace(-span_deg / 2, span_deg / 2, count))):
        radius, height = ((0.95, 0.45), (1.2, 0.75))[index % 2]
        eye = (-0.3 - radius * math.cos(angle), radius * math.sin(angle), height)
        cameras[f"{index:02d}.jpg"] = look_at(eye, at=(-0.28, 0, 0.2), fovy_deg=52, px=px)
    return cameras


def spoilt(mask, rng):
    """Spoils a mask as a segmentation network would."""
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    kernel = np.ones((3, 3), np.uint8)
    edge = cv2.dilate(mask.astype(np.uint8), kernel) != cv2.erode(mask.astype(np.uint8), kernel)
    mask = mask ^ (edge & (rng.random(mask.shape) < 0.25))
    inside, size = np.argwhere(mask), mask.shape[0]
    for hole in inside[rng.integers(len(inside), size=3)]:
        mask = mask & (np.hypot(rows - hole[0], columns - hole[1]) > rng.uniform(0.01, 0.035) * size)
    for ghost in rng.integers(size, size=(2, 2)):
        mask = mask | (np.hypot(rows - ghost[0], columns - ghost[1]) < rng.uniform(0.01, 0.03) * size)
    return mask


def photographed(cameras, *, joints=JOINTS, robot="ur5e", seed=0):
    """Returns camera and spoilt mask (float32) of every view."""
    rng, model = np.random.default_rng(seed), robot_model(robot)
    masks = {name: spoilt(model.mask(joints, camera), rng) for name, camera in cameras.items()}
    return {name: (cameras[name], mask.astype(np.float32)) for name, mask in masks.items()}


def displaced(rng, mm, deg):
    """Returns a rigid transform in a random direction."""
    shift, axis = rng.normal(size=(2, 3))
    pose = np.eye(4)
    pose[:3, :3] = matrix_from_vector(axis / np.linalg.norm(axis) * math.radians(deg))
    pose[:3, 3] = shift / np.linalg.norm(shift) * mm / 1e3
    return Similarity(pose=pose)


def error(found, truth):
    """Returns distance [mm] and angle [deg] of the base frames, and the largest motion of the robot's surface [mm]."""
    surface = robot_model("ur5e").surface(JOINTS, 0.03).points
    off = Similarity(pose=found.pose @ truth.inverse().pose, scale=found.scale / truth.scale)
    moved = found.apply(truth.inverse().apply(surface)) - surface
    base = found.apply(truth.inverse().apply(np.zeros(3)))
    turned = float(np.linalg.norm(vector_from_matrix(off.pose[:3, :3])))
    return 1e3 * float(np.linalg.norm(base)), math.degrees(turned), 1e3 * float(np.linalg.norm(moved, axis=1).max())


def seen_from(cameras, scan_from_base):
    """Returns the cameras in a frame of the scan."""
    from twin.align.alignment import moved_camera

    return {name: moved_camera(camera, scan_from_base) for name, camera in cameras.items()}
