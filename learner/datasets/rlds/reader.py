"""This module reads the episodes of an RLDS dataset, one record in memory at a time."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

from learner.datasets.dataset import ActionScale
from learner.datasets.rlds.description import read_features, read_info
from learner.datasets.rlds.foreign import ForeignLayout
from learner.datasets.rlds.own import from_features, stored_scale
from learner.datasets.rlds.records import Features, decode_example, read_records
from learner.datasets.settings import RldsMapping
from protos.episode import Episode
from protos.errors import CorruptData, InputError
from protos.schema import Schema

log = logging.getLogger(__name__)


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
