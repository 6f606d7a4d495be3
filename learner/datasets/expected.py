"""The arrays of episodes as they were before a writer had them, for a check of what it wrote."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from learner.datasets.episode import Writer
from protos.episode import Episode


class ExpectedArrays:
    """Passes episodes on to a writer and keeps their arrays in an .npz file, as i/action, i/side and so on."""

    def __init__(self, path: Path, writer: Writer) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer, self._file, self._count = writer, zipfile.ZipFile(path, "w"), 0

    def add(self, episode: Episode) -> None:
        self._writer.add(episode)
        seen = episode.observation
        arrays: dict[str, NDArray[np.generic]] = {
            "action": episode.action,
            "state": seen.proprio,
            "side": seen.side,
            "wrist": seen.wrist,
            "reward": episode.reward,
            "instruction": np.array(episode.instruction),
        }
        for name, array in arrays.items():
            with self._file.open(f"{self._count}/{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        self._count += 1

    def close(self) -> None:
        self._file.close()
