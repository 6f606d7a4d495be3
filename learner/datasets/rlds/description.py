"""This module reads the files that describe a dataset of tensorflow_datasets.

    dataset_info.json   splits and their shards
    features.json       {"steps": Dataset({"observation": {"image_0": Image}}), "episode_metadata": {…}}
                        ─► {"steps/observation/image_0": FeatureSpec(kind="image", stepwise=True), …}

Both may come from others and are checked; a file that makes no sense raises CorruptData.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from learner.datasets.dataset import read_json
from learner.datasets.rlds.example_pb2 import Feature
from learner.datasets.rlds.records import values_of
from protos.errors import CorruptData, InputError

INFO = "dataset_info.json"
Kind = Literal["tensor", "image", "text", "other"]
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_MAX_EPISODES = 1 << 40
_NUMBERS = ("bool", "float", "int", "uint")
_MOST_AXES = 8


@dataclass(frozen=True, kw_only=True)
class Split:
    """A split is a list of shards, each with its number of episodes."""

    template: str
    lengths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The part of dataset_info.json that is needed here."""

    name: str
    splits: Mapping[str, Split]

    def shards(self, folder: Path, split: str) -> list[tuple[Path, int]]:
        """Returns file and number of episodes of each shard. Raises InputError when one is missing."""
        if split not in self.splits:
            raise InputError(f"{folder}: no split {split!r}; there is {', '.join(self.splits) or 'none'}")
        of = self.splits[split]
        files = [(folder / self._file(split, index), length) for index, length in enumerate(of.lengths)]
        for file, _ in files:
            if not file.is_file():
                raise InputError(f"{file}: missing, though {INFO} lists it in split {split!r}")
        return files

    def _file(self, split: str, index: int) -> str:
        of = self.splits[split]
        count, shard = f"{len(of.lengths):05d}", f"{index:05d}"
        values = {
            "{DATASET}": self.name,
            "{SPLIT}": split,
            "{FILEFORMAT}": "tfrecord",
            "{SHARD_X_OF_Y}": f"{shard}-of-{count}",
            "{SHARD_INDEX}": shard,
            "{NUM_SHARDS}": count,
        }
        name = of.template
        for key, value in values.items():
            name = name.replace(key, value)
        if "/" in name or "{" in name:
            raise CorruptData(f"{INFO}: {of.template!r} names the file {name!r} of split {split!r}")
        return name


def read_info(folder: Path) -> DatasetInfo:
    """Reads dataset_info.json. Raises InputError, CorruptData."""
    path = folder / INFO
    record = read_json(path)
    try:
        if record.get("fileFormat", "tfrecord") != "tfrecord":
            raise InputError(f"{path}: its files are {record['fileFormat']}; tfrecord is read")
        splits = {
            str(each["name"]): Split(
                template=str(each.get("filepathTemplate") or _TEMPLATE),
                lengths=tuple(_count(length) for length in each.get("shardLengths", ())),
            )
            for each in record.get("splits", ())
        }
        return DatasetInfo(name=str(record["name"]), splits=splits)
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise CorruptData(f"{path}: not the description of a dataset ({error!r})") from error


def _count(length: Any) -> int:
    if not 0 <= int(length) <= _MAX_EPISODES:
        raise ValueError(f"a shard of {length} episodes")
    return int(length)


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """A feature specification is one leaf of features.json."""

    kind: Kind
    dtype: str = ""
    shape: tuple[int, ...] = ()
    """Shape of one step's value; −1 where it is not fixed."""
    encoding: str = "none"
    stepwise: bool
    """One value per step, not one per episode."""

    def numbers(self, feature: Feature) -> NDArray[Any]:
        """Returns values (rows, *shape): rows are the steps, or one for the episode. Raises CorruptData, InputError."""
        if self.kind != "tensor" or not self.dtype.startswith(_NUMBERS) or self.encoding != "none":
            raise InputError(f"numbers are wanted, this is {self}")
        if min(self.shape, default=1) < 1:
            raise InputError(f"numbers of a fixed shape are wanted, this one's is {self.shape}")
        values = values_of(feature)
        size = math.prod(self.shape)
        if isinstance(values, list) or not len(values) or len(values) % size or len(self.shape) > _MOST_AXES:
            raise CorruptData(f"{len(values)} values do not fill rows of shape {self.shape[:_MOST_AXES]}")
        return values.reshape(-1, *self.shape)

    def strings(self, feature: Feature) -> list[str]:
        """Returns texts, one per step or one for the episode. Raises CorruptData, InputError."""
        if self.kind != "text" and self.dtype not in {"string", "object"}:
            raise InputError(f"a text is wanted, this is {self}")
        try:
            return [value.decode() for value in blobs(feature)]
        except UnicodeDecodeError as error:
            raise CorruptData("a text that is not UTF-8") from error


def blobs(feature: Feature) -> list[bytes]:
    """Returns bytes as they are stored. Raises CorruptData."""
    values = values_of(feature)
    if isinstance(values, np.ndarray):
        raise CorruptData(f"bytes are wanted, these are {len(values)} numbers")
    return values


def read_features(path: Path) -> dict[str, FeatureSpec]:
    """Reads the leaves of features.json by their name in an Example. Raises CorruptData, InputError."""
    return dict(_leaves(read_json(path), "", stepwise=False, where=path))


def _leaves(node: Any, name: str, *, stepwise: bool, where: Path) -> Iterator[tuple[str, FeatureSpec]]:
    if not isinstance(node, Mapping):
        raise CorruptData(f"{where}: {name or 'the top'} is not a feature")
    try:
        if "featuresDict" in node:
            for key, child in node["featuresDict"]["features"].items():
                yield from _leaves(child, f"{name}/{key}".removeprefix("/"), stepwise=stepwise, where=where)
        elif "sequence" in node and not stepwise and name == "steps":
            yield from _leaves(node["sequence"]["feature"], name, stepwise=True, where=where)
        else:
            yield name, _leaf(node, stepwise)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CorruptData(f"{where}: {name or 'the top'} is not a feature ({error!r})") from error


def _leaf(node: Mapping[str, Any], stepwise: bool) -> FeatureSpec:
    kind: Kind
    for kind in ("tensor", "image", "text"):
        if kind in node:
            content = node[kind]
            return FeatureSpec(
                kind=kind,
                dtype=content.get("dtype", "string" if kind == "text" else "uint8"),
                shape=tuple(int(each) for each in content.get("shape", {}).get("dimensions", ())),
                encoding=content.get("encoding", "none"),
                stepwise=stepwise,
            )
    return FeatureSpec(kind="other", stepwise=stepwise)
