"""This module moves a demonstrated path to the bodies' present poses.

    demonstrated:  start ──── free ────► grasp ──── free ────► release
                     │                     │                      │
                   T_0                   T_1                    T_2       new_from_old of each anchor (4, 4)
                     ▼                     ▼                      ▼
    new:           start' ─── bent ────► grasp' ─── bent ────► release'

Within a contact the path is moved with its anchor. In between it is bent: each pose is moved with both anchors, the two
positions are mixed evenly and the two rotations by slerp (object-centric, as in MimicGen, Mandlekar et al. 2023; affine
on translation and slerp on rotation as in TwinRL, section III-B).

A body that looks the same after a turn about its own z axis may be met in several ways. The one is taken that turns the
tool least from where it comes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protos.schema import F64, Configuration
from twin.camera import invert, pose_of
from twin.expand.demonstration import Contact, Demonstration, body_poses, start_pose
from twin.expand.path import ToolPath, angle_between, slerp
from twin.rotations import about_z, yaw_of
from twin.tasks import Task


def anchor_moves(
    demonstration: Demonstration, found: Sequence[Contact], task: Task, configuration: Configuration
) -> list[F64]:
    """Returns new_from_old (4, 4) of each contact's anchor, when the bodies start as in `configuration`.

    Bodies that were carried are followed: a second grasp finds them where the first release leaves them.
    """
    path, poses = demonstration.path, body_poses(task, configuration)
    start = start_pose(task, configuration)
    moves = [start @ invert(path.pose(0))]
    held, tcp_from_held = "", np.eye(4)
    for contact in found[1:]:
        event = path.pose(contact.event)
        if len(contact.anchors) > 1:
            moves.append(group_move(contact.anchors, poses))
        else:
            ways = _ways(poses[contact.anchor], contact.anchors[contact.anchor], task.symmetries.get(contact.anchor, 1))
            moves.append(_least_turn(ways, moves[-1], event))
        if contact.kind == "grasp":
            held, tcp_from_held = contact.anchor, invert(moves[-1] @ event) @ poses[contact.anchor]
        elif contact.kind == "release":
            poses[held] = moves[-1] @ event @ tcp_from_held
            held = ""
    return moves


def bent(path: ToolPath, found: Sequence[Contact], moves: Sequence[F64]) -> ToolPath:
    """Moves the whole path with its contacts' anchors; same steps, same commands of the gripper."""
    positions, rotations = np.empty_like(path.positions), np.empty_like(path.rotations)
    for number, contact in enumerate(found):
        rows = np.arange(contact.first, contact.last + 1)
        positions[rows], rotations[rows] = _moved(path, rows, moves[number])
        if number + 1 < len(found):
            rows = np.arange(contact.last + 1, found[number + 1].first)
            share = (rows - contact.last) / (found[number + 1].first - contact.last)
            p0, r0 = _moved(path, rows, moves[number])
            p1, r1 = _moved(path, rows, moves[number + 1])
            positions[rows] = p0 + share[:, None] * (p1 - p0)
            for k, row in enumerate(rows):
                rotations[row] = slerp(r0[k], r1[k], share[k : k + 1])[0]
    return ToolPath(positions=positions, rotations=rotations, closed=path.closed)


def _moved(path: ToolPath, rows: NDArray[np.intp], move: F64) -> tuple[F64, F64]:
    return path.positions[rows] @ move[:3, :3].T + move[:3, 3], move[:3, :3] @ path.rotations[rows]


def _ways(new: F64, old: F64, fold: int) -> list[F64]:
    """Returns new_from_old for every turn about the body's z axis under which it looks the same."""
    turns = 2 * np.pi / fold * np.arange(fold)
    return [new @ pose_of((0, 0, 0), about_z(turn)) @ invert(old) for turn in turns]


def group_move(old: Mapping[str, F64], new: Mapping[str, F64]) -> F64:
    """Returns new_from_old of bodies that lie together: their middle moves with them, by the mean of their turns."""
    before, after = np.stack(list(old.values())), np.stack([new[name] for name in old])
    turns = yaw_of(after[:, :3, :3] @ np.swapaxes(before[:, :3, :3], -1, -2))
    turn = about_z(np.angle(np.exp(1j * turns).mean()))
    return pose_of(after[:, :3, 3].mean(0) - turn @ before[:, :3, 3].mean(0), turn)


def _least_turn(ways: Sequence[F64], before: F64, event: F64) -> F64:
    """Returns the way whose tool at the event is turned least against the one of the move before."""
    came = before[:3, :3] @ event[:3, :3]
    return min(ways, key=lambda way: float(angle_between(way[:3, :3] @ event[:3, :3], came)))


def cost(demonstration: Demonstration, configuration: Configuration, names: Sequence[str]) -> float:
    """Returns the distance of a configuration from the demonstrated one, in metres and 0.1 m per radian."""
    total = 0.0
    reference: Mapping[str, tuple[float, float, float, float]] = demonstration.configuration.poses
    for name in names:
        new, old = configuration.poses[name], reference[name]
        turn = (new[3] - old[3] + np.pi) % (2 * np.pi) - np.pi
        total += float(np.linalg.norm(np.subtract(new[:3], old[:3]))) + 0.1 * abs(turn)
    return total
