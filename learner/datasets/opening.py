"""This module opens a folder as the dataset it holds, for reading or for writing.

pyarrow, PyAV and google-crc32c belong to the extra "data", so the formats' packages are imported where they are needed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from learner.datasets.dataset import ActionScale, Dataset, Format, ImageFormat, Writer
from learner.datasets.evidence import action_evidence
from learner.datasets.recording import check_rate
from learner.datasets.settings import DataSettings, ForeignMapping, Numbers
from protos.errors import InputError
from protos.pointers import refuse_pointer
from protos.schema import CONTROL_HZ, Schema
from protos.settings import load_settings

_EVIDENCE_EPISODES = 10
_LOOKED_FOR = (
    "RLDS (features.json), LeRobotDataset v3 (meta/info.json), or the pickles released with the paper "
    "(*.pkl, *.pkl.gz, in the folder or one below)"
)


def open_dataset(
    path: Path,
    schema: Schema,
    *,
    action_scale: ActionScale | None = None,
    instruction: str | None = None,
    hz: float | None = None,
) -> Dataset:
    """Opens the dataset in `path`, whose format is told by its files; images are resized to `schema` when read.

    `path` is the dataset's folder (of RLDS with or without the version), one released pickle, or a JSON file of
    `DataSettings`. `action_scale` and `instruction` replace what is stored; data of another rate than `hz` are
    resampled to it, None reads them as they were recorded. Raises InputError when nothing is recognised or the rate
    cannot be had, CorruptData when the description of the data is damaged.
    """
    settings = described(path)
    settings = replace(
        settings,
        action_scale=action_scale or settings.action_scale,
        instruction=settings.instruction if instruction is None else instruction,
    )
    return opened(settings, schema, hz)


def described(path: Path) -> DataSettings:
    """Returns the settings of a dataset: those in a JSON file, its path made whole, or those of a folder alone."""
    refuse_pointer(path)
    if path.suffix != ".json":
        return DataSettings(path=path)
    settings = load_settings(DataSettings, path)
    return replace(settings, path=path.parent / settings.path)


def opened(settings: DataSettings, schema: Schema, hz: float | None = None) -> Dataset:
    """Opens the dataset that settings describe, as `open_dataset` does.

    Raises InputError for actions that are absolute poses where motions are expected.
    """
    dataset = _opened(settings, schema, hz)
    if hz is not None:
        check_rate(str(settings.path), dataset.hz, hz, resample=settings.resample)
    return dataset


def open_datasets(
    paths: Sequence[Path], schema: Schema, *, action_scale: ActionScale | None = None, hz: float | None = None
) -> tuple[list[Dataset], ActionScale | None]:
    """Opens datasets for joint training and returns the one scale of their actions: `action_scale`, or the first's.

    Without a dataset the scale is the given one. Raises InputError like `open_dataset`; where a dataset cannot be
    brought to the scale, reading it does.
    """
    datasets: list[Dataset] = []
    for path in paths:
        datasets.append(open_dataset(path, schema, action_scale=action_scale, hz=hz))
        action_scale = action_scale or datasets[0].action_scale
    return datasets, action_scale


def make_writer(
    kind: Format,
    folder: Path,
    schema: Schema,
    *,
    action_scale: ActionScale,
    images: ImageFormat = "video",
    hz: float = CONTROL_HZ,
) -> Writer:
    """Opens a folder for episodes at `hz`, after repairing what a crash left. Raises InputError for other content."""
    if kind == "lerobot":
        from learner.datasets.lerobot import LeRobotWriter

        return LeRobotWriter(folder, schema, action_scale=action_scale, images=images, hz=hz)
    from learner.datasets.rlds import RldsWriter

    return RldsWriter(folder, schema, action_scale=action_scale, hz=hz)


def stored_schema(path: Path) -> Schema | None:
    """Reads the image sizes of a dataset that TwinRL wrote; returns None for one of others."""
    if (path / "meta" / "info.json").is_file():
        from learner.datasets import lerobot

        return lerobot.stored_schema(path)
    if (path / "twinrl.json").is_file():
        from learner.datasets import rlds

        return rlds.stored_schema(path)
    return None


def _opened(settings: DataSettings, schema: Schema, hz: float | None) -> Dataset:
    path, scale, instruction = settings.path, settings.action_scale, settings.instruction
    if (path / "meta" / "info.json").is_file():
        from learner.datasets.lerobot import LeRobotDataset

        if instruction is not None:
            raise InputError(f"{path}: LeRobotDatasets hold an instruction for every episode; it is not replaced")
        lerobot = LeRobotDataset(path, schema, action_scale=scale, mapping=settings.lerobot, hz=hz)
        check_form(path, settings.lerobot, lerobot.positions)
        return lerobot
    folder = rlds_folder(path)
    if folder is not None:
        from learner.datasets.rlds import RldsDataset

        rlds = RldsDataset(folder, schema, mapping=settings.rlds, action_scale=scale, instruction=instruction, hz=hz)
        check_form(path, settings.rlds, rlds.positions)
        return rlds
    from learner.datasets.released import ReleasedDataset, released_files

    if released_files(path):
        return ReleasedDataset(
            path, schema, mapping=settings.released, action_scale=scale, instruction=instruction, hz=hz
        )
    refuse_pointer(path)
    raise InputError(f"{path}: {_found(path)}; looked for {_LOOKED_FOR}")


def check_form(
    path: Path, mapping: ForeignMapping | None, positions: Callable[[int], Iterable[tuple[Numbers, Numbers]]]
) -> None:
    """Raises InputError when the first episodes show that actions are not in the form that the mapping says.

    `positions` gives states' positions [m] and actions' of so many episodes.
    """
    form = None if mapping is None else mapping.action_form
    if mapping is None or form == "delta":
        return
    rows = [(state.astype(np.float64), action.astype(np.float64)) for state, action in positions(_EVIDENCE_EPISODES)]
    seen = action_evidence([state for state, _ in rows], [action for _, action in rows])
    if seen is None or seen.guess in (form or "delta", "unclear"):
        return
    if form == "absolute":
        raise InputError(f'{path}: its actions are motions, "action_form": "absolute" wants poses; {seen}')
    raise InputError(
        f"{path}: its actions are absolute poses, and motions per step are expected; {seen}. A settings file with "
        f'"action_form": "absolute" converts them ("delta" takes them as they are); '
        f"twinrl inspect {path} --settings FILE writes one"
    )


def rlds_folder(path: Path) -> Path | None:
    """Returns the folder with features.json: `path`, or the newest version below it."""
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
