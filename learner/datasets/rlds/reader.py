"""This module reads the episodes of an RLDS dataset, one record in memory at a time."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from learner.datasets.dataset import ActionScale
from learner.datasets.images import black, decode_image, resize_all
from learner.datasets.outcomes import outcome_of, reward_of
from learner.datasets.reading import Skipped, content_mark, readable
from learner.datasets.recording import Recording, Track, resampled_episode, uniform
from learner.datasets.rlds.description import FeatureSpec, blobs, read_features, read_info
from learner.datasets.rlds.example_pb2 import Feature
from learner.datasets.rlds.own import from_features, stored_rate, stored_scale
from learner.datasets.rlds.records import DamagedPayload, Features, Record, decode_example, read_records
from learner.datasets.settings import Numbers, RldsMapping
from protos.episode import Episode
from protos.errors import CorruptData, InputError
from protos.schema import F32, PROPRIO_DIM, U8, Bools, Configuration, Observation, Outcome, Schema

log = logging.getLogger(__name__)

KNOWN_RATES = {"bridge_dataset": 5.0, "bridge_orig": 5.0, "fractal20220817_data": 3.0, "droid": 15.0}
"""Steps per second by the name of the dataset; RLDS has no place for it."""
_CAMERAS = "steps/observation/"


class RldsDataset:
    """An RLDS dataset reads the episodes of one split of a folder with features.json."""

    format: Literal["rlds"] = "rlds"

    def __init__(
        self,
        folder: Path,
        schema: Schema,
        *,
        mapping: RldsMapping | None = None,
        action_scale: ActionScale | None = None,
        instruction: str | None = None,
        hz: float | None = None,
    ) -> None:
        """Opens a folder; episodes are resampled to `hz`, None reads them as they were recorded."""
        self._schema, self._wanted_scale, self._instruction, self._wanted_hz = schema, action_scale, instruction, hz
        self.mapping, self.skipped = mapping or RldsMapping(), list[Skipped]()
        info = read_info(folder)
        self.name = info.name
        self._shards = info.shards(folder, self.mapping.split)
        self._own = stored_scale(folder)
        self.hz = self.mapping.hz or (KNOWN_RATES.get(info.name) if self._own is None else stored_rate(folder))
        self._foreign = ForeignLayout(
            features=read_features(folder / "features.json"),
            mapping=self.mapping,
            instruction=instruction,
            hz=self.hz,
        )

    def __len__(self) -> int:
        return sum(length for _, length in self._shards)

    @cached_property
    def action_scale(self) -> ActionScale:
        """Returns the requested scale, the one stored with TwinRL's own data, or one fitted to the first episodes."""
        if self._wanted_scale is not None:
            return self._wanted_scale
        return self._fitted() if self._own is None else self._own.at_rate(self.hz, self._wanted_hz)

    def __iter__(self) -> Iterator[Episode]:
        self.skipped.clear()
        return readable(self.name, self._attempts(), self.skipped)

    def _attempts(self) -> Iterator[tuple[str, Callable[[], Episode]]]:
        """Yields the place of every record, and the reader of its episode."""
        for index, place, record in self._records(self.skipped):
            yield place, partial(self._episode, index, record)

    def _episode(self, index: int, record: Record) -> Episode:
        example = decode_example(record.payload)
        if self._own is None:
            name = f"{self.name}/{self.mapping.split}/{index}"
            recording = self._foreign.recording(example, name, self._schema)
            recording = replace(recording, mark=content_mark(str(index), self.mapping.split, record.payload))
            return recording.resampled(self._wanted_hz).episode(self.action_scale)
        episode = replace(from_features(example, self._schema), hz=self.hz)
        episode = resampled_episode(episode, self._wanted_hz, self._own, self._wanted_scale)
        return episode if self._instruction is None else replace(episode, instruction=self._instruction)

    def _records(self, skipped: list[Skipped]) -> Iterator[tuple[int, str, Record]]:
        """Yields number, place and record of every record that is whole; what is not goes into `skipped`."""
        first = 0
        for path, length in self._shards:
            lost, count = list[Skipped](), 0
            try:
                for record in islice(read_records(path, partial(_note, path, lost)), length):
                    yield first + count + len(lost), f"{path}: record at byte {record.offset}", record
                    count += 1
            except CorruptData as error:
                lost.append(Skipped(place=str(path), why=str(error), count=max(1, length - count - len(lost))))
            missing = length - count - sum(each.count for each in lost)
            if missing > 0:
                why = f"{length - missing} records; dataset_info.json promises {length}"
                lost.append(Skipped(place=str(path), why=why, count=missing))
            for each in lost:
                log.warning("skipped: %s", each)
            skipped += lost
            first += length

    def positions(self, count: int) -> Iterator[tuple[Numbers, Numbers]]:
        """Yields positions (n, 3) [m] of states and the first three numbers (n, 3) of actions of the first episodes."""
        if self._own is None and self.mapping.state:
            for _, _, record in islice(self._records([]), count):
                with suppress(CorruptData):
                    yield self._foreign.positions(decode_example(record.payload))

    def _fitted(self) -> ActionScale:
        motions = list[F32]()
        for _, _, record in islice(self._records([]), self.mapping.scale_episodes):
            with suppress(CorruptData):
                track = self._foreign.track(decode_example(record.payload))
                motions.append(track.resampled(self._wanted_hz, self.hz).motion)
        if not motions:
            raise CorruptData(f"{self.name}: none of its episodes can be read, so no action scale can be fitted")
        scale = ActionScale.fit(motions, percentile=self.mapping.scale_percentile)
        log.info("%s: an action of 1 is %.4g m, %.4g rad per step", self.name, scale.metres, scale.radians)
        return scale


def _note(path: Path, lost: list[Skipped], error: DamagedPayload) -> None:
    lost.append(Skipped(place=str(path), why=str(error)))


@dataclass(frozen=True, kw_only=True)
class ForeignLayout:
    """A foreign layout joins features.json and a mapping."""

    features: Mapping[str, FeatureSpec]
    mapping: RldsMapping
    instruction: str | None
    """Replaces the stored one."""
    hz: float | None

    def recording(self, example: Features, name: str, schema: Schema) -> Recording:
        """Decodes one Example. Raises CorruptData, or InputError where the mapping does not fit the dataset."""
        track = self.track(example)
        steps = len(track.motion)
        seen = self._observation(example, schema)
        rows = np.minimum(np.arange(steps + 1), len(seen) - 1)
        reward, outcome = self._ending(example, steps)
        return Recording(
            name=name,
            mark="",
            instruction=self._text(example),
            configuration=Configuration(region=""),
            observation=seen.rows(rows),
            track=track,
            reward=reward,
            human=np.full(steps, self.mapping.human),
            outcome=outcome,
            source=self.mapping.source,
            hz=self.hz,
        )

    def track(self, example: Features) -> Track:
        """Returns the track of the actions that were carried out."""
        action = self._joined(example, self.mapping.action)
        action = action if self.mapping.last_action else action[:-1]
        if not len(action):
            raise CorruptData("an episode without a step")
        state = self._joined(example, self.mapping.state) if self.mapping.state else None
        moved, gripper = self.mapping.motion(action, state)
        return Track(times=uniform(len(moved), self.hz), motion=moved, gripper=gripper)

    def positions(self, example: Features) -> tuple[Numbers, Numbers]:
        """Returns positions (n, 3) [m] of states and the first three numbers (n, 3) of actions."""
        state, action = (self._joined(example, names) for names in (self.mapping.state, self.mapping.action))
        return self.mapping.positions(action, state)

    def _observation(self, example: Features, schema: Schema) -> Observation:
        rows = len(self._joined(example, self.mapping.action))
        state = self._joined(example, self.mapping.state) if self.mapping.state else None
        times = None if self.hz is None else uniform(rows - 1, self.hz)
        proprio = np.zeros((rows, PROPRIO_DIM), np.float32) if state is None else self.mapping.proprio(state, times)
        cameras = [self._camera(names) for names in (self.mapping.side, self.mapping.wrist)]
        if cameras == [None, None]:
            raise InputError(f"no camera is known by the mapping; below {_CAMERAS} there is {self._names(_CAMERAS)}")
        side, wrist = (
            black(rows, px) if name is None else self._images(example, name, px)
            for name, px in zip(cameras, (schema.side_px, schema.wrist_px), strict=True)
        )
        if not len(side) == len(wrist) == len(proprio) == rows:
            raise CorruptData(f"{len(side)} side, {len(wrist)} wrist images, {len(proprio)} states, {rows} actions")
        return Observation(side=side, wrist=wrist, proprio=proprio)

    def _camera(self, names: tuple[str, ...]) -> str | None:
        return next((_CAMERAS + name for name in names if _CAMERAS + name in self.features), None)

    def _images(self, example: Features, name: str, px: int) -> U8:
        spec, feature = self.features[name], self._feature(example, name)
        if spec.kind == "image":
            return resize_all(map(decode_image, blobs(feature)), px)
        pixels = spec.numbers(feature)
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or spec.dtype != "uint8":
            raise InputError(f"{name}: images (H, W, 3) of uint8 are wanted, this is {spec}")
        return resize_all(pixels.astype(np.uint8), px)

    def _joined(self, example: Features, names: tuple[str, ...]) -> Numbers:
        """Joins the columns (n, …) of all names side by side."""
        parts = []
        for name in names:
            part = self._numbers(example, name)
            parts.append(part.reshape(len(part), -1).astype(np.float64))
        if len({len(part) for part in parts}) != 1:
            raise CorruptData(f"{', '.join(names)} differ in their number of steps: {[len(part) for part in parts]}")
        return np.concatenate(parts, axis=1)

    def _numbers(self, example: Features, name: str) -> Numbers:
        if name not in self.features:
            raise InputError(f"no feature {name}; the dataset has {self._names('steps/')}")
        numbers = self.features[name].numbers(self._feature(example, name))
        if not np.isfinite(numbers).all():
            row = np.argwhere(~np.isfinite(numbers))[0]
            where = f"step {row[0]}" + (f", number {row[1]}" if len(row) > 1 else "")
            raise CorruptData(f"{name} holds a NaN or an infinity in {where}")
        return numbers

    def _text(self, example: Features) -> str:
        if self.instruction is not None:
            return self.instruction
        for name in self.mapping.instruction:
            if name in self.features:
                texts = self.features[name].strings(self._feature(example, name))
                return next((text for text in texts if text), "")
        raise InputError(
            f"none of {', '.join(self.mapping.instruction)} is in the dataset, which has {self._names('')}; "
            "name the right one in a settings file, or give an instruction"
        )

    def _ending(self, example: Features, steps: int) -> tuple[F32, Outcome]:
        """Returns rewards (T,) and outcome. A reward at the final observation goes to the last action."""
        rows = steps if self.mapping.last_action else steps + 1
        name = "steps/reward" if self.mapping.reward is None else self.mapping.reward
        reward = self._optional(example, name, rows)
        flags = {name: self._optional(example, f"steps/{name}", rows) for name in ("is_last", "is_terminal")}
        ended = [name for name, flag in flags.items() if flag is not None and flag[-1]]
        end = Outcome.FAILURE if "is_terminal" in ended else Outcome.TIMEOUT if ended else Outcome.UNKNOWN
        if reward is not None:
            reward[steps - 1] += reward[steps:].sum()
            reward = reward[:steps]
        outcome = outcome_of(
            success=self._success(example),
            reward=reward,
            end=end,
            success_reward=self.mapping.success_reward,
            unsaid=self.mapping.outcome,
        )
        return reward_of(outcome, steps) if reward is None else reward.astype(np.float32), outcome

    def _success(self, example: Features) -> Bools | None:
        found = (name for name in self.mapping.success if name in self.features and name in example)
        name = next(found, None)
        return None if name is None else self._numbers(example, name).reshape(-1) > 0

    def _optional(self, example: Features, name: str, rows: int) -> Numbers | None:
        """Returns values (rows,), None where the dataset lacks them."""
        if name not in self.features or name not in example:
            return None
        values = self._numbers(example, name).reshape(-1).astype(np.float64)
        if len(values) != rows:
            raise CorruptData(f"{len(values)} values of {name}, {rows} actions")
        return values

    def _feature(self, example: Features, name: str) -> Feature:
        if name not in example:
            raise CorruptData(f"no {name}, which features.json promises")
        return example[name]

    def _names(self, prefix: str) -> str:
        return ", ".join(name for name in self.features if name.startswith(prefix)) or "nothing"
