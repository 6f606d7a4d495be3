"""This module writes episodes as RLDS that tensorflow_datasets opens with `builder_from_directory(folder)`.

    add ─► Example ─► record, synced to disk ─► dataset_info.json, replaced at once

dataset_info.json counts only records that were on disk before it. After a crash they are whole; one more record may
follow them, which is counted then if it is whole and cut off if it is torn.
"""

import json
import logging
import os
from pathlib import Path

from learner.datasets.dataset import ActionScale, check_episode, read_json
from learner.datasets.rlds.description import INFO, read_info
from learner.datasets.rlds.own import MARK, episode_name, features_json, to_features
from learner.datasets.rlds.records import decode_example, encode_example, framed, read_records
from protos.episode import Episode
from protos.errors import CorruptData, InputError, SchemaMismatch
from protos.files import write_durably
from protos.folders import contents
from protos.schema import CONTROL_HZ, Schema
from protos.settings import to_json

log = logging.getLogger(__name__)

_NAME, _SPLIT = "twinrl", "train"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"
"""Template without the number of shards, which is unknown before the end."""
_DESCRIPTION = "Episodes recorded by TwinRL. Actions are in [-1, 1]; twinrl.json tells their scale."


class RldsWriter:
    """An RLDS writer appends to a folder and continues where an earlier one of the same schema and scale stopped."""

    def __init__(
        self,
        folder: Path,
        schema: Schema,
        *,
        action_scale: ActionScale,
        hz: float = CONTROL_HZ,
        shard_bytes: int = 256 << 20,
    ) -> None:
        """Opens the folder. Raises InputError for other content in it, SchemaMismatch for another schema or scale."""
        self._folder, self._schema, self._hz, self._shard_bytes = folder, schema, hz, shard_bytes
        self._lengths, self.names = _opened(folder, schema, action_scale, hz)
        self._file = self._shard(len(self._lengths) - 1).open("ab") if self._lengths else None
        self._save()

    def add(self, episode: Episode) -> None:
        """Appends an episode; it is on disk when this returns. Raises SchemaMismatch for images of another size."""
        check_episode(episode, self._schema, self._hz)
        record = framed(encode_example(to_features(episode)))
        if self._file is None or self._file.tell() + len(record) > self._shard_bytes:
            self._next_shard()
        assert self._file is not None
        self._file.write(record)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._lengths[-1] += 1
        self.names.add(episode.name)
        self._save()

    def close(self) -> None:
        """Closes the file; nothing is lost without it."""
        if self._file is not None:
            self._file.close()

    def _next_shard(self) -> None:
        if self._file is not None and not self._lengths[-1]:
            return  # one episode that is larger than a shard should be
        self.close()
        self._lengths.append(0)
        self._file = self._shard(len(self._lengths) - 1).open("wb")

    def _shard(self, index: int) -> Path:
        return self._folder / f"{_NAME}-{_SPLIT}.tfrecord-{index:05d}"

    def _save(self) -> None:
        size = sum(self._shard(index).stat().st_size for index in range(len(self._lengths)))
        lengths = [str(length) for length in self._lengths]
        split = {"name": _SPLIT, "filepathTemplate": _TEMPLATE, "numBytes": str(size), "shardLengths": lengths}
        info = {
            "name": _NAME,
            "version": "1.0.0",
            "description": _DESCRIPTION,
            "fileFormat": "tfrecord",
            "moduleName": "",
            "splits": [split],
        }
        write_durably(self._folder / INFO, [json.dumps(info, indent=2).encode()])


def _opened(folder: Path, schema: Schema, scale: ActionScale, hz: float) -> tuple[list[int], set[str]]:
    """Returns the records per shard and the episodes' names, after repair; writes the files of a new folder."""
    mark = {"action_scale": to_json(scale), "schema": to_json(schema), "hz": hz}
    if not (folder / MARK).is_file():
        if any(child.suffix != ".tmp" for child in contents(folder)):
            raise InputError(f"{folder}: not empty, and not a dataset of TwinRL; give a new folder")
        write_durably(folder / MARK, [json.dumps(mark, indent=2).encode()])
    held = read_json(folder / MARK)
    if not isinstance(held, dict) or {"hz": CONTROL_HZ} | held != mark:
        raise SchemaMismatch(f"{folder}: written with another schema or action scale, or rate ({MARK}), wanted {mark}")
    write_durably(folder / "features.json", [json.dumps(features_json(schema), indent=2).encode()])
    if not (folder / INFO).is_file():
        return [], set()
    info = read_info(folder)
    if info.name != _NAME:
        raise InputError(f"{folder}: holds the dataset {info.name!r}, not {_NAME!r}")
    return _repaired(info.shards(folder, _SPLIT))


def _repaired(shards: list[tuple[Path, int]]) -> tuple[list[int], set[str]]:
    """Returns the records per shard and the episodes' names, after cutting off a torn record at the very end."""
    lengths, names = [], set[str]()
    for path, acknowledged in shards:
        count = end = 0
        try:
            for record in read_records(path):
                names.add(episode_name(decode_example(record.payload)))
                count, end = count + 1, record.end
        except CorruptData as error:
            if count < acknowledged or path != shards[-1][0]:
                raise
            log.warning("%s; cut off", error)
            os.truncate(path, end)
        if count < acknowledged:
            raise CorruptData(f"{path}: {count} records; {INFO} promises {acknowledged}")
        lengths.append(count)
    return lengths, names
