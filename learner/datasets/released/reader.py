"""This module reads the pickles released with the paper as episodes, one file in memory at a time.

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

Where the files give metres and radians, the action scale is the largest motion of all episodes, equal in both
directions: the authors map each axis from its least and largest value to −1 and 1, so that an action of 0 would be a
motion.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, cast

import numpy as np

from learner.datasets import motion
from learner.datasets.dataset import UNKNOWN_SCALE, ActionScale, read_json
from learner.datasets.images import black, resize_all
from learner.datasets.outcomes import outcome_of, reward_of
from learner.datasets.reading import Skipped, content_mark, readable
from learner.datasets.recording import Recording, Track, check_known, uniform
from learner.datasets.released.pickles import read_plain
from learner.datasets.settings import ReleasedMapping
from protos.episode import Episode
from protos.errors import CorruptData, InputError
from protos.pointers import refuse_pointer
from protos.proprioception import proprioception
from protos.schema import (
    F32,
    F64,
    GRIPPER,
    TCP_VELOCITY,
    U8,
    WRENCH,
    Bools,
    Configuration,
    Observation,
    Outcome,
    Schema,
)

_INSTRUCTIONS = {
    "pick_banana": "Pick banana",
    "insert_block": "Insert the block.",
    "insert_circle": "Insert the circle.",
    "erase_whiteboard": "Erase the whiteboard.",
}
"""Instructions of the authors, by a part of the path."""
_PATTERNS = ("*.pkl", "*.pkl.gz", "*/*.pkl", "*/*.pkl.gz")


MAX_STEPS = 20_000
"""Most steps of one episode; a file may refer to one frame any number of times."""
_GRIPPER_END = 1e-3
"""Tolerance [m] for a gripper at its widest or narrowest."""


@dataclass(frozen=True, kw_only=True)
class Take:
    """A take is one episode as its file has it."""

    observation: Observation  # T + 1 rows
    motion: F32  # (T, 6) [m, rad] per step; per unknown unit when not `in_metres`
    gripper: F32  # (T,) -1 close to 1 open
    in_metres: bool
    reward: F32  # (T,)
    outcome: Outcome
    hz: float | None

    @property
    def track(self) -> Track:
        return Track(times=uniform(len(self.motion), self.hz), motion=self.motion, gripper=self.gripper)


@dataclass(frozen=True, kw_only=True)
class Extremes:
    """Extremes are the least and largest of each of 7 action columns, to undo the authors' normalisation."""

    low: F64
    high: F64

    def undo(self, action: F64) -> F64:
        """Returns actions (T, 7) before their normalisation."""
        return (action + 1.0) * (self.high - self.low) / 2.0 + self.low


@dataclass(frozen=True, kw_only=True)
class _Survey:
    episodes: int
    scale: ActionScale
    hz: float | None


class ReleasedDataset:
    """A released dataset reads the episodes of a file, or of the files of a folder and the folders in it."""

    format: Literal["released"] = "released"

    def __init__(
        self,
        path: Path,
        schema: Schema,
        *,
        mapping: ReleasedMapping | None = None,
        action_scale: ActionScale | None = None,
        instruction: str | None = None,
        hz: float | None = None,
    ) -> None:
        """Opens a file or folder; episodes are resampled to `hz`, None reads them as they were recorded."""
        self.name, self.skipped = path.name, list[Skipped]()
        self._files, self._schema = released_files(path), schema
        self._wanted_scale, self._wanted_hz = action_scale, hz
        self.mapping = mapping or ReleasedMapping()
        self._instructions = {file: _instruction(file) if instruction is None else instruction for file in self._files}

    def __len__(self) -> int:
        """Returns the number of episodes; the first call reads all files."""
        return self._survey.episodes

    @property
    def action_scale(self) -> ActionScale:
        """Returns the requested scale, or the largest motion; the first call reads all files."""
        return self._wanted_scale or self._survey.scale

    @property
    def hz(self) -> float | None:
        """Returns the rate of all files, None where it is not known or not one; the first call reads all files."""
        return self._survey.hz

    def __iter__(self) -> Iterator[Episode]:
        self.skipped.clear()
        found = ((each.place, partial(self._episode, each)) for each in self._attempts(self._schema))
        return readable(self.name, found, self.skipped)

    def _episode(self, attempt: "_Attempt") -> Episode:
        take, stored = attempt.read(), self._survey.scale
        if self._wanted_hz is not None and not take.in_metres and take.hz != self._wanted_hz:
            check_known(UNKNOWN_SCALE, self.name, take.hz, self._wanted_hz)
        scale, seen = stored if take.in_metres else ActionScale(metres=1.0, radians=1.0), take.observation
        recording = Recording(
            name=f"{attempt.file.name}/{attempt.index}",
            mark=content_mark(str(attempt.index), take.motion, take.gripper, take.reward, seen.side, seen.wrist),
            instruction=self._instructions[attempt.file],
            configuration=Configuration(region=""),
            observation=seen,
            track=take.track,
            reward=take.reward,
            human=np.zeros(len(take.motion), bool),
            outcome=take.outcome,
            source=self.mapping.source,
            hz=take.hz,
        )
        episode = recording.resampled(self._wanted_hz).episode(scale)
        return replace(episode, action=stored.converted(episode.action, self.action_scale))

    @cached_property
    def _survey(self) -> _Survey:
        """Reads all files for the number of episodes, their scale and their rate."""
        count, takes = 0, list[Take]()
        for each in self._attempts(Schema(side_px=16, wrist_px=16)):
            count += 1
            with suppress(CorruptData):
                take = each.read()
                takes.append(replace(take, observation=take.observation.rows([])))
        known = {take.in_metres for take in takes}
        if len(known) == 2:
            raise InputError(
                f"{self.name}: some files tell metres, others only actions in [-1, 1]; "
                "open them one by one, or put <file>_action_stats.json beside them"
            )
        scale, rates = UNKNOWN_SCALE, {take.hz for take in takes}
        if known == {True}:
            moved = (take.track.resampled(self._wanted_hz, take.hz).motion for take in takes)
            scale = ActionScale.fit(moved, percentile=100.0)
        return _Survey(episodes=count, scale=scale, hz=rates.pop() if len(rates) == 1 else None)

    def _attempts(self, schema: Schema) -> Iterator["_Attempt"]:
        for file in self._files:
            try:
                yield from self._of_file(file, schema)
            except (CorruptData, gzip.BadGzipFile, zlib.error) as error:
                yield _Attempt(file=file, index=0, place=str(file), read=partial(_fail, CorruptData(str(error))))

    def _of_file(self, file: Path, schema: Schema) -> Iterator["_Attempt"]:
        """Yields the episodes of a file. Raises CorruptData where not even their number can be told."""
        with _opened(file) as source:
            data = read_plain(source, self.mapping.limit_bytes)
        if isinstance(data, dict):
            yield _Attempt(file=file, index=0, place=str(file), read=partial(raw_take, data, self.mapping, schema))
            return
        extremes, in_metres = stored_extremes(file), self._in_metres(file)
        for index, rows in enumerate(split_transitions(data)):
            read = partial(training_take, rows, extremes, in_metres=in_metres, mapping=self.mapping, schema=schema)
            yield _Attempt(file=file, index=index, place=f"{file}: episode {index}", read=read)

    def _in_metres(self, file: Path) -> bool:
        if self.mapping.actions == "by name":
            return "_delta" in file.name and "_normalized" not in file.name
        return self.mapping.actions == "metres"


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """One episode that may be readable."""

    file: Path
    index: int
    place: str
    read: Callable[[], Take]


def _fail(error: CorruptData) -> NoReturn:
    raise error


def _opened(file: Path) -> IO[bytes]:
    refuse_pointer(file)
    return cast(IO[bytes], gzip.open(file)) if file.suffix == ".gz" else file.open("rb")


def released_files(path: Path) -> list[Path]:
    """Returns the pickles of a folder and of the folders in it, 2 before 10; or `path` if it is one."""
    if path.is_file():
        return [path] if path.name.endswith((".pkl", ".pkl.gz")) else []
    files = [file for pattern in _PATTERNS for file in path.glob(pattern)]
    return sorted(files, key=lambda file: (len(file.name), file.name, str(file)))


def _instruction(file: Path) -> str:
    for part, text in _INSTRUCTIONS.items():
        if part in str(file.absolute()):
            return text
    raise InputError(f"{file} holds no instruction, and its path names no task of the paper; give one")


def raw_take(data: Any, mapping: ReleasedMapping, schema: Schema) -> Take:
    """Returns the episode of a raw file. Raises CorruptData."""
    hand, frames = mapping.hand, data.get("data") if isinstance(data, dict) else None
    if not isinstance(frames, list) or not 2 <= len(frames) <= MAX_STEPS:
        raise CorruptData(f'no list of two or more frames under "data", or one of more than {MAX_STEPS}')
    pose = np.stack([_numbers(frame, f"{hand}_pose", 6) for frame in frames])
    gripper = np.concatenate([_numbers(frame, f"{hand}_gripper", 1) for frame in frames])
    rotation = motion.quaternions(pose[:, 3:], "euler")
    moved = np.concatenate([np.diff(pose[:, :3], axis=0), motion.turns(rotation[:-1], rotation[1:])], axis=1)
    outcome = outcome_of(unsaid=mapping.outcome)
    width = max(float(np.ptp(gripper)), _GRIPPER_END)
    times = uniform(len(moved), mapping.hz)
    proprio = motion.proprio(pose[:, :3], rotation, 1.0 - (gripper.max() - gripper) / width, times)
    return Take(
        observation=Observation(
            side=_bgr(frames, "front_image", schema.side_px),
            wrist=_bgr(frames, f"{hand}_image", schema.wrist_px),
            proprio=proprio,
        ),
        motion=moved.astype(np.float32),
        gripper=gripper_commands(gripper)[:-1],
        in_metres=True,
        reward=reward_of(outcome, len(moved)),
        outcome=outcome,
        hz=mapping.hz,
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


def split_transitions(data: Any) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Yields the transitions of each episode of a training file. Raises CorruptData."""
    if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
        raise CorruptData("no list of transitions")
    start = 0
    for row, transition in enumerate(data):
        if row == len(data) - 1 or _numbers(transition, "dones", 1)[0]:
            yield data[start : row + 1]
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


def training_take(
    rows: Sequence[Mapping[str, Any]],
    extremes: Extremes | None,
    *,
    in_metres: bool,
    mapping: ReleasedMapping,
    schema: Schema,
) -> Take:
    """Returns the episode of these transitions; `in_metres` when actions are not normalised. Raises CorruptData."""
    known = in_metres
    seen = [_entry(row, "observations", dict) for row in rows] + [_entry(rows[-1], "next_observations", dict)]
    action = np.stack([_numbers(row, "actions", 7) for row in rows])
    if extremes is not None and not known:
        action, known = extremes.undo(action), True
    turn = motion.rotation_vectors(motion.quaternions(action[:, 3:6], "euler")) if known else action[:, 3:6]
    reward = np.array([_numbers(row, "rewards", 1)[0] > 0 for row in rows], np.float32)
    done = bool(_numbers(rows[-1], "dones", 1)[0])
    outcome = outcome_of(success=_success(rows), reward=reward, end=Outcome.FAILURE if done else Outcome.UNKNOWN)
    return Take(
        observation=Observation(
            side=resize_all([_image(each, "side_policy_256") for each in seen], schema.side_px),
            wrist=resize_all([_image(each, "wrist_1") for each in seen], schema.wrist_px),
            proprio=_proprio(np.stack([_numbers(each, "state", None).reshape(-1)[-19:] for each in seen])),
        ),
        motion=np.concatenate([action[:, :3], turn], axis=1).astype(np.float32),
        gripper=np.where(action[:, 6] > (0.5 if known else 0.0), 1.0, -1.0).astype(np.float32),
        in_metres=known,
        reward=reward,
        outcome=outcome,
        hz=mapping.training_hz,
    )


def _success(rows: Sequence[Mapping[str, Any]]) -> Bools | None:
    """Returns the flags of success (T,) that the authors' environments give; None where a transition has none."""
    infos = [row.get("infos") for row in rows]
    found = [info["succeed"] for info in infos if isinstance(info, dict) and "succeed" in info]
    if len(found) != len(rows) or not all(isinstance(each, bool | np.bool_ | int | float) for each in found):
        return None
    return np.array(found, bool)


def _proprio(state: F64) -> F32:
    """Returns proprioception (n, 25) of states (n, 19) in the authors' order; motion under way is zero."""
    if state.shape[1] != 19:
        raise CorruptData(f"states of {state.shape[1]} numbers; 19 are wanted")
    is_pose = bool((state[:, 7:] == 0).all() and np.allclose(np.linalg.norm(state[:, 3:7], axis=1), 1.0, atol=1e-3))
    turned = (
        motion.quaternions(state[:, 3:7], "quaternion_xyzw") if is_pose else motion.quaternions(state[:, 3:6], "euler")
    )
    return proprioception(
        position=state[:, :3],
        rotation=motion.rotation_vectors(turned),
        velocity=0.0 if is_pose else state[:, TCP_VELOCITY],
        wrench=state[:, WRENCH],
        opening=state[:, GRIPPER],
    )


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
    entry = holder.get(name) if isinstance(holder, dict) else None
    if entry is None or not isinstance(entry, kind):
        raise CorruptData(f"no {name}")
    return entry
