"""This script opens an RLDS folder of TwinRL in tensorflow_datasets and compares every number and pixel.

    python -m venv tfds && tfds/bin/pip install tensorflow-cpu tensorflow-datasets
    tfds/bin/python scripts/check_rlds.py FOLDER EXPECTED.npz

Runs where tensorflow_datasets is installed, with nothing of TwinRL. EXPECTED is what `twinrl export --expected` writes:
for episode i the arrays i/action (T, 7), i/state, i/side, i/wrist (T + 1 rows), i/reward, i/human, i/instruction,
i/name and i/outcome. Exits with an AssertionError at the first difference.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

OBSERVATIONS = {"side": "side", "wrist": "wrist", "proprio": "state"}


def main(folder: Path, expected: Path) -> int:
    """Compares the folder with the arrays; returns 0 when they agree."""
    tfds = import_module("tensorflow_datasets")
    builder = tfds.builder_from_directory(str(folder))
    episodes = list(tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False)))
    steps = 0
    with np.load(expected, allow_pickle=False) as file:
        assert len(episodes) == len({name.split("/")[0] for name in file.files})
        for index, episode in enumerate(episodes):
            rows = list(episode["steps"])
            for name, ours in OBSERVATIONS.items():
                seen = np.stack([row["observation"][name] for row in rows])
                np.testing.assert_array_equal(file[f"{index}/{ours}"], seen)
            for name in ("action", "reward", "human"):
                np.testing.assert_array_equal(file[f"{index}/{name}"], np.stack([row[name] for row in rows])[:-1])
            texts = {row["language_instruction"] for row in rows}, *_metadata(episode)
            assert texts == ({_text(file, index, "instruction")}, *(_text(file, index, n) for n in ("name", "outcome")))
            assert [row["is_last"] for row in rows] == [False] * (len(rows) - 1) + [True]
            steps += len(rows) - 1
    sys.stdout.write(
        f"{folder}: {len(episodes)} episodes, {steps} steps, equal in tensorflow_datasets {tfds.__version__}\n"
    )
    return 0


def _metadata(episode: Any) -> tuple[bytes, bytes]:
    return episode["episode_metadata"]["name"], episode["episode_metadata"]["outcome"]


def _text(file: Any, index: int, name: str) -> bytes:
    return str(file[f"{index}/{name}"]).encode()


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
