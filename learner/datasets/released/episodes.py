"""This module turns the two kinds of pickle that were released with the paper into episodes.

    raw twin episode    {"data": [frame, …]}: absolute poses and images at 20 Hz, one episode per file
    training file       [transition, …]: delta actions, brought to [−1, 1] by their extremes; any number of episodes

A raw frame holds `front_image`, `<hand>_image` (BGR), `<hand>_pose` (x, y, z [m], roll, pitch, yaw [rad]) and
`<hand>_gripper`. The action of step t moves the tool from frame t to frame t + 1: a displacement and a rotation
in the base frame; T + 1 frames make T steps. (The authors' own conversion shifts by one: its first and last
actions are zero.) The gripper command is theirs: open where the gripper is at its widest, closed where it is at its
narrowest, and in between the one that follows.

A transition holds `observations` and `next_observations` with `side_policy_256` and `wrist_1` (RGB, two frames of
which the last counts) and `state` (2, 19), which the released files set to zero. Where it is not zero, it is position,
Euler angles (or a quaternion x, y, z, w, and then nothing), velocities, wrench and gripper.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from learner.datasets import motion
from learner.datasets.dataset import read_json
from learner.datasets.images import black, resize_all
from protos.errors import CorruptData
from protos.schema import F32, F64, PROPRIO_DIM, U8, Observation, Outcome, Schema

MAX_STEPS = 20_000
"""Most steps of one episode; a file may refer to one frame any number of times."""
_GRIPPER_END = 1e-3
"""Tolerance [m] for a gripper at its widest or narrowest."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """A track is one episode before its actions have a scale."""

    observation: Observation  # T + 1 rows
    motion: F32  # (T, 6) [m, rad] per step; per unknown unit when not `in_metres`
    gripper: F32  # (T,) -1 close to 1 open
    in_metres: bool
    reward: F32  # (T,)
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Extremes:
    """Extremes are the least and largest of each of 7 action columns, to undo the authors' normalisation."""

    low: F64
    high: F64

    def undo(self, action: F64) -> F64:
        """Returns actions (T, 7) before their normalisation."""
        return (action + 1.0) * (self.high - self.low) / 2.0 + self.low


def raw_track(data: Any, hand: str, hz: float, schema: Schema) -> Track:
    """Returns the episode of a raw file. Raises CorruptData."""
    frames = data.get("data") if isinstance(data, dict) else None
    if not isinstance(frames, list) or not 2 <= len(frames) <= MAX_STEPS:
        raise CorruptData(f'no list of two or more frames under "data", or one of more than {MAX_STEPS}')
    pose = np.stack([_numbers(frame, f"{hand}_pose", 6) for frame in frames])
    gripper = np.concatenate([_numbers(frame, f"{hand}_gripper", 1) for frame in frames])
    rotation = motion.quaternions(pose[:, 3:], "euler")
    moved = np.concatenate([np.diff(pose[:, :3], axis=0), motion.turns(rotation[:-1], rotation[1:])], axis=1)
    steps = len(moved)
    reward = np.zeros(steps, np.float32)
    reward[-1] = 1.0
    width = max(float(np.ptp(gripper)), _GRIPPER_END)
    proprio = motion.proprio(pose[:, :3], rotation, 1.0 - (gripper.max() - gripper) / width, hz)
    return Track(
        observation=Observation(
            side=_bgr(frames, "front_image", schema.side_px),
            wrist=_bgr(frames, f"{hand}_image", schema.wrist_px),
            proprio=proprio,
        ),
        motion=moved.astype(np.float32),
        gripper=gripper_commands(gripper)[:-1],
        in_metres=True,
        reward=reward,
        outcome=Outcome.SUCCESS,
    )


def gripper_commands(opening: F64) -> F32:
    """Returns commands (n,) of openings (n,): 1 at the widest, −1 at the narrowest, else the command that follows."""
    commands = np.empty(len(opening), np.float32)
    following = 1.0 if opening[-1] > opening.max() - _GRIPPER_END else -1.0
    for row in reversed(range(len(opening))):
        if opening[row] > opening.max() - _GRIPPER_END:
            following = 1.0
        elif opening[row] < opening.min() + _GRIPPER_END:
            following = -1.0
        commands[row] = following
    return commands


def training_tracks(data: Any, extremes: Extremes | None, *, in_metres: bool, schema: Schema) -> Iterator[Track]:
    """Yields the episodes of a training file; `in_metres` when its actions are not normalised. Raises CorruptData."""
    if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
        raise CorruptData("no list of transitions")
    start = 0
    for row, transition in enumerate(data):
        if row == len(data) - 1 or _numbers(transition, "dones", 1)[0]:
            yield _training_track(data[start : row + 1], extremes, in_metres, schema)
            start = row + 1
        elif row - start == MAX_STEPS:
            raise CorruptData(f"an episode of more than {MAX_STEPS} transitions")


def stored_extremes(path: Path) -> Extremes | None:
    """Reads the extremes that the authors' normalisation wrote: for delta.pkl, delta_action_stats.json beside it."""
    suffix = "_action_stats.json"
    names = [file for file in path.parent.glob(f"*{suffix}") if path.name.startswith(file.name.removesuffix(suffix))]
    if not names:
        return None
    file = max(names, key=lambda name: len(name.name))
    record = read_json(file)
    try:
        low, high = (np.asarray(record[key], np.float64) for key in ("min", "max"))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptData(f"{file}: no min and max of the actions") from error
    if low.shape != (7,) or high.shape != (7,) or not np.isfinite([low, high]).all():
        raise CorruptData(f"{file}: min {low.shape} and max {high.shape} of the actions, 7 finite numbers are wanted")
    return Extremes(low=low, high=high)


def _training_track(rows: Sequence[Mapping[str, Any]], extremes: Extremes | None, known: bool, schema: Schema) -> Track:
    seen = [_entry(row, "observations", dict) for row in rows] + [_entry(rows[-1], "next_observations", dict)]
    action = np.stack([_numbers(row, "actions", 7) for row in rows])
    if extremes is not None and not known:
        action, known = extremes.undo(action), True
    turn = motion.rotation_vectors(motion.quaternions(action[:, 3:6], "euler")) if known else action[:, 3:6]
    reward = np.array([_numbers(row, "rewards", 1)[0] > 0 for row in rows], np.float32)
    done = bool(_numbers(rows[-1], "dones", 1)[0])
    ended = Outcome.SUCCESS if reward.any() else Outcome.FAILURE if done else Outcome.RUNNING
    return Track(
        observation=Observation(
            side=resize_all([_image(each, "side_policy_256") for each in seen], schema.side_px),
            wrist=resize_all([_image(each, "wrist_1") for each in seen], schema.wrist_px),
            proprio=_proprio(np.stack([_numbers(each, "state", None).reshape(-1)[-19:] for each in seen])),
        ),
        motion=np.concatenate([action[:, :3], turn], axis=1).astype(np.float32),
        gripper=np.where(action[:, 6] > (0.5 if known else 0.0), 1.0, -1.0).astype(np.float32),
        in_metres=known,
        reward=reward,
        outcome=ended,
    )


def _proprio(state: F64) -> F32:
    """Returns proprioception (n, 25) of states (n, 19) in the authors' order; motion under way is zero."""
    if state.shape[1] != 19:
        raise CorruptData(f"states of {state.shape[1]} numbers; 19 are wanted")
    out = np.zeros((len(state), PROPRIO_DIM), np.float32)
    out[:, :19] = state
    if (state[:, 7:] == 0).all() and np.allclose(np.linalg.norm(state[:, 3:7], axis=1), 1.0, atol=1e-3):
        out[:, 3:6] = motion.rotation_vectors(motion.quaternions(state[:, 3:7], "quaternion_xyzw"))
        out[:, 6] = 0.0
    else:
        out[:, 3:6] = motion.rotation_vectors(motion.quaternions(state[:, 3:6], "euler"))
    return out


def _bgr(frames: Sequence[Any], name: str, px: int) -> U8:
    """Returns images (n, px, px, 3) in RGB; black where the frames have no such camera."""
    if name not in frames[0]:
        return black(len(frames), px)
    return resize_all([_image(frame, name)[..., ::-1] for frame in frames], px)


def _image(holder: Any, name: str) -> U8:
    image = _entry(holder, name, np.ndarray)
    image = image[-1] if image.ndim == 4 and len(image) else image
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise CorruptData(f"{name} is no image (H, W, 3) of bytes, but {image.shape} of {image.dtype}")
    return np.ascontiguousarray(image)


def _numbers(holder: Any, name: str, size: int | None) -> F64:
    """Returns finite numbers (size,) of an array of any shape, a list of numbers, or a number."""
    value = _entry(holder, name, object)
    if isinstance(value, list | tuple) and any(isinstance(each, list | tuple | np.ndarray) for each in value):
        raise CorruptData(f"{name} is a list of lists")
    try:
        numbers = np.asarray(value, np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise CorruptData(f"{name} is not made of numbers") from error
    if len(numbers) != (len(numbers) if size is None else size) or not np.isfinite(numbers).all():
        raise CorruptData(f"{name} holds {len(numbers)} numbers, {size or 'finite ones'} are wanted")
    return numbers


def _entry(holder: Any, name: str, kind: type) -> Any:
    if not isinstance(holder, dict) or not isinstance(holder.get(name), kind) or holder[name] is None:
        raise CorruptData(f"no {name}")
    return holder[name]
