"""`dataset_info.json` of tensorflow_datasets: the splits and where their shards are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.datasets.json_files import read_json
from protos.errors import CorruptData, InputError

INFO = "dataset_info.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_MAX_EPISODES = 1 << 40


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split: its shards and how many episodes each holds."""

    template: str
    lengths: tuple[int, ...]
    bytes: int
    """Of its files together."""


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is needed of the file."""

    name: str
    version: str
    splits: Mapping[str, Split]

    def shards(self, folder: Path, split: str) -> list[tuple[Path, int]]:
        """File and number of episodes of each shard. Raises InputError when one is not there."""
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
    """Reads the file. Raises InputError, CorruptData."""
    path = folder / INFO
    record = read_json(path)
    try:
        if record.get("fileFormat", "tfrecord") != "tfrecord":
            raise InputError(f"{path}: its files are {record['fileFormat']}; tfrecord is read")
        splits = {
            str(each["name"]): Split(
                template=str(each.get("filepathTemplate") or _TEMPLATE),
                lengths=tuple(_count(length) for length in each.get("shardLengths", ())),
                bytes=int(each.get("numBytes", 0)),
            )
            for each in record.get("splits", ())
        }
        return DatasetInfo(name=str(record["name"]), version=str(record.get("version", "")), splits=splits)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise CorruptData(f"{path}: not the description of a dataset ({error!r})") from error


def _count(length: Any) -> int:
    if not 0 <= int(length) <= _MAX_EPISODES:
        raise ValueError(f"a shard of {length} episodes")
    return int(length)


def info_json(info: DatasetInfo, description: str) -> dict[str, Any]:
    """The file's content."""
    return {
        "name": info.name,
        "version": info.version,
        "description": description,
        "fileFormat": "tfrecord",
        "moduleName": "",
        "splits": [
            {
                "name": name,
                "filepathTemplate": split.template,
                "numBytes": str(split.bytes),
                "shardLengths": [str(length) for length in split.lengths],
            }
            for name, split in info.splits.items()
        ],
    }
