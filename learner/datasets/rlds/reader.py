"""This module reads the episodes of an RLDS dataset, one record in memory at a time."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from learner.datasets.dataset import ActionScale
from learner.datasets.images import black, decode_image, resize_all
from learner.datasets.rlds.description import FeatureSpec, blobs, read_features, read_info
from learner.datasets.rlds.example_pb2 import Feature
from learner.datasets.rlds.own import from_features, stored_scale
from learner.datasets.rlds.records import Features, decode_example, read_records
from learner.datasets.settings import Numbers, RldsMapping
from protos.episode import Episode
from protos.errors import CorruptData, InputError
from protos.schema import F32, PROPRIO_DIM, U8, Configuration, Observation, Outcome, Schema

log = logging.getLogger(__name__)

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
    ) -> None:
        self._schema, self._wanted_scale, self._instruction = schema, action_scale, instruction
        self.mapping = mapping or RldsMapping()
        info = read_info(folder)
        self.name = info.name
        self._shards = info.shards(folder, self.mapping.split)
        self._foreign = ForeignLayout(
            features=read_features(folder / "features.json"), mapping=self.mapping, instruction=instruction
        )
        self._stored_scale = stored_scale(folder)

    def __len__(self) -> int:
        return sum(length for _, length in self._shards)

    @cached_property
    def action_scale(self) -> ActionScale:
        """Returns the requested scale, the one stored with TwinRL's own data, or one fitted to the first episodes."""
        return self._wanted_scale or self._stored_scale or self._fitted()

    def __iter__(self) -> Iterator[Episode]:
        for index, (where, example) in enumerate(self._examples()):
            try:
                yield self._episode(index, example)
            except (CorruptData, InputError) as error:
                raise type(error)(f"{where}: {error}") from error

    def _episode(self, index: int, example: Features) -> Episode:
        if self._stored_scale is None:
            name = f"{self.name}/{self.mapping.split}/{index}"
            return self._foreign.episode(example, name, self._schema, self.action_scale)
        episode = from_features(example, self._schema)
        action = self._stored_scale.converted(episode.action, self.action_scale)
        instruction = episode.instruction if self._instruction is None else self._instruction
        return replace(episode, action=action, instruction=instruction)

    def _examples(self) -> Iterator[tuple[str, Features]]:
        """Yields every Example with the place where it is, for messages."""
        for path, length in self._shards:
            count = 0
            for record in islice(read_records(path), length):
                count += 1
                where = f"{path}: record at byte {record.offset}"
                try:
                    yield where, decode_example(record.payload)
                except CorruptData as error:
                    raise CorruptData(f"{where}: {error}") from error
            if count < length:
                raise CorruptData(f"{path}: {count} records; dataset_info.json promises {length}")

    def _fitted(self) -> ActionScale:
        episodes = islice(self._examples(), self.mapping.scale_episodes)
        motions = [self._foreign.motion(example)[0] for _, example in episodes]
        scale = ActionScale.fit(motions, percentile=self.mapping.scale_percentile)
        log.info("%s: an action of 1 is %.4g m, %.4g rad per step", self.name, scale.metres, scale.radians)
        return scale


@dataclass(frozen=True, kw_only=True)
class ForeignLayout:
    """A foreign layout joins features.json and a mapping."""

    features: Mapping[str, FeatureSpec]
    mapping: RldsMapping
    instruction: str | None
    """Replaces the stored one."""

    def episode(self, example: Features, name: str, schema: Schema, scale: ActionScale) -> Episode:
        """Decodes one Example. Raises CorruptData, or InputError where the mapping does not fit the dataset."""
        motion, gripper = self.motion(example)
        steps = len(motion)
        seen = self._observation(example, schema)
        rows = np.minimum(np.arange(steps + 1), len(seen) - 1)
        reward, outcome = self._ending(example, steps)
        return Episode(
            name=name,
            instruction=self._text(example),
            configuration=Configuration(region=""),
            observation=seen.rows(rows),
            action=scale.to_action(motion, gripper),
            reward=reward,
            human=np.full(steps, self.mapping.human),
            outcome=outcome,
            source=self.mapping.source,
        )

    def motion(self, example: Features) -> tuple[F32, F32]:
        """Returns motions (T, 6) [m, rad] per step and gripper commands (T,) of the actions that were carried out."""
        action = self._joined(example, self.mapping.action)
        action = action if self.mapping.last_action else action[:-1]
        if not len(action):
            raise CorruptData("an episode without a step")
        return self.mapping.motion(action)

    def _observation(self, example: Features, schema: Schema) -> Observation:
        rows = len(self._joined(example, self.mapping.action))
        state = self._joined(example, self.mapping.state) if self.mapping.state else None
        proprio = np.zeros((rows, PROPRIO_DIM), np.float32) if state is None else self.mapping.proprio(state)
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
            raise CorruptData(f"{name} holds a NaN or an infinity")
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
        reward = self._optional(example, "steps/reward", rows)
        reward[steps - 1] += reward[steps:].sum()
        reward = reward[:steps]
        if reward.max() > 0:
            outcome = Outcome.SUCCESS
        elif self._optional(example, "steps/is_terminal", rows)[-1]:
            outcome = Outcome.FAILURE
        else:
            outcome = Outcome.TIMEOUT if self._optional(example, "steps/is_last", rows)[-1] else Outcome.RUNNING
        return reward.astype(np.float32), outcome

    def _optional(self, example: Features, name: str, rows: int) -> Numbers:
        """Returns values (rows,), zeros where the dataset lacks them."""
        if name not in self.features or name not in example:
            return np.zeros(rows)
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
