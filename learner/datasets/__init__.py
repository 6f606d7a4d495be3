"""Recorded episodes in the formats people have: RLDS, LeRobotDataset v3, the pickles released with the paper."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from learner.datasets.episode import ActionScale, Dataset, Writer
from learner.datasets.released.reader import ReleasedDataset, released_files
from learner.datasets.rlds.reader import RldsDataset
from learner.datasets.settings import DataSettings
from protos.episode import Episode
from protos.errors import InputError
from protos.schema import Schema
from protos.settings import load_settings

__all__ = ["ActionScale", "DataSettings", "Dataset", "Episode", "Writer", "open_dataset", "open_datasets"]

_LOOKED_FOR = (
    "RLDS (features.json), LeRobotDataset v3 (meta/info.json), or the pickles released with the paper "
    "(*.pkl, *.pkl.gz, in the folder or one below)"
)


def open_dataset(
    path: Path, schema: Schema, *, action_scale: ActionScale | None = None, instruction: str | None = None
) -> Dataset:
    """The dataset in `path`, its format told by what is there; pictures are resized to `schema` when read.

    `path` is the dataset's folder (of RLDS with or without the version), one released pickle, or a JSON file of
    `DataSettings` that says where the data are and how to read them. `action_scale` and `instruction` replace what is
    stored. Raises InputError when nothing is recognised, CorruptData when the description of the data is damaged.
    """
    settings = load_settings(DataSettings, path) if path.suffix == ".json" else DataSettings(path=path)
    settings = replace(
        settings,
        path=path.parent / settings.path if path.suffix == ".json" else path,
        action_scale=action_scale or settings.action_scale,
        instruction=settings.instruction if instruction is None else instruction,
    )
    return _opened(settings, schema)


def open_datasets(
    paths: Sequence[Path], schema: Schema, *, action_scale: ActionScale | None = None
) -> tuple[list[Dataset], ActionScale | None]:
    """Datasets that are learnt from together, and the one scale of their actions: `action_scale`, or the first's.

    Without a dataset the scale is what was given. Raises InputError like `open_dataset`; where a dataset cannot be
    brought to the scale, reading it does.
    """
    datasets: list[Dataset] = []
    for path in paths:
        datasets.append(open_dataset(path, schema, action_scale=action_scale))
        action_scale = action_scale or datasets[0].action_scale
    return datasets, action_scale


def _opened(settings: DataSettings, schema: Schema) -> Dataset:
    path, scale, instruction = settings.path, settings.action_scale, settings.instruction
    if (path / "meta" / "info.json").is_file():
        from learner.datasets.lerobot.reader import LeRobotDataset

        if instruction is not None:
            raise InputError(f"{path}: LeRobotDatasets hold an instruction for every episode; it is not replaced")
        return LeRobotDataset(path, schema, action_scale=scale, mapping=settings.lerobot)
    rlds = _rlds_folder(path)
    if rlds is not None:
        return RldsDataset(rlds, schema, mapping=settings.rlds, action_scale=scale, instruction=instruction)
    if released_files(path):
        return ReleasedDataset(path, schema, mapping=settings.released, action_scale=scale, instruction=instruction)
    raise InputError(f"{path}: {_found(path)}; looked for {_LOOKED_FOR}")


def _rlds_folder(path: Path) -> Path | None:
    """The folder with features.json: `path`, or the newest version below it."""
    if (path / "features.json").is_file():
        return path
    versions = [file.parent for file in path.glob("*.*.*/features.json")]
    return max(
        versions, key=lambda folder: [int(part) for part in folder.name.split(".") if part.isdigit()], default=None
    )


def _found(path: Path) -> str:
    if not path.exists():
        return "no such file or folder"
    if path.is_file():
        return "a file of no known format"
    names = sorted(child.name for child in path.iterdir())
    return f"no dataset among {', '.join(names[:5]) or 'nothing'}{' …' if len(names) > 5 else ''}"
