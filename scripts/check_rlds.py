"""Opens an RLDS folder that TwinRL wrote in tensorflow_datasets, and compares every number and pixel.

    python -m venv tfds && tfds/bin/pip install tensorflow-cpu tensorflow-datasets pillow
    tfds/bin/python scripts/check_rlds.py FOLDER

Tensorflow stays out of TwinRL's own environment; this needs numpy, pillow and protobuf beside it.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from learner.datasets.json_files import read_json
from learner.datasets.rlds.reader import RldsDataset
from protos.schema import Schema
from protos.settings import from_json


def main(folder: Path) -> int:
    """Returns 0 when both readers see the same."""
    tfds = import_module("tensorflow_datasets")
    builder = tfds.builder_from_directory(str(folder))
    theirs = tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False))
    ours = RldsDataset(folder, from_json(Schema, read_json(folder / "twinrl.json")["schema"]))
    count = steps = 0
    for episode, example in zip(ours, theirs, strict=True):
        rows = list(example["steps"])
        metadata = {name: value.decode() for name, value in example["episode_metadata"].items()}
        assert (episode.name, episode.outcome.value) == (metadata["name"], metadata["outcome"])
        for name in ("side", "wrist", "proprio"):
            seen = _column(rows, lambda row, name=name: row["observation"][name])
            np.testing.assert_array_equal(getattr(episode.observation, name), seen)
        for name in ("action", "reward", "human"):
            np.testing.assert_array_equal(getattr(episode, name), _column(rows, lambda row, name=name: row[name])[:-1])
        assert {row["language_instruction"].decode() for row in rows} == {episode.instruction}
        assert [row["is_last"] for row in rows] == [False] * len(episode.action) + [True]
        count, steps = count + 1, steps + len(episode.action)
    sys.stdout.write(f"{folder}: {count} episodes, {steps} steps, the same in tensorflow_datasets {tfds.__version__}\n")
    return 0


def _column(rows: list[dict[str, Any]], of: Any) -> Any:
    return np.stack([of(row) for row in rows])


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
