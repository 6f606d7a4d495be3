"""This script checks that the lerobot package loads a dataset of ours and gives the same numbers and images.

    python scripts/check_lerobot.py DATASET EXPECTED.npz [--psnr 30]

Runs where `lerobot[dataset]` is installed, with nothing of TwinRL. EXPECTED is what `twinrl export --expected` writes:
for episode i the arrays i/action (T, 7), i/state, i/side, i/wrist (T + 1 rows), i/reward and i/instruction. Compares
every step of every episode through `LeRobotDataset(repo_id, root=DATASET)[index]`: numbers must be equal to the bit,
PNG images too; each video of an episode must reach `--psnr` dB. Exits with 1 at the first difference.
"""

import argparse
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS = {"action": "action", "observation.state": "state", "next.reward": "reward"}
CAMERAS = {"observation.images.side": "side", "observation.images.wrist": "wrist"}
Expected = Mapping[str, NDArray[Any]]


def check(folder: Path, expected: Expected, psnr_db: float) -> str:
    """Returns a summary; raises SystemExit with the first difference."""
    dataset = import_module("lerobot.datasets.lerobot_dataset").LeRobotDataset(f"local/{folder.name}", root=folder)
    wanted = len({name.split("/")[0] for name in expected})
    if dataset.num_episodes != wanted:
        raise SystemExit(f"{folder}: {dataset.num_episodes} episodes, expected {wanted}")
    start, levels = 0, []
    for episode in range(wanted):
        levels += check_episode(dataset, expected, episode, start)
        start += len(expected[f"{episode}/action"])
    if start != len(dataset):
        raise SystemExit(f"{folder}: {len(dataset)} frames, expected {start}")
    if min(levels) < psnr_db:
        raise SystemExit(f"{folder}: images reach {min(levels):.1f} dB only, expected {psnr_db:g} dB")
    lossy = [level for level in levels if np.isfinite(level)]
    images = f"{min(lossy):.1f} dB at worst, {np.mean(lossy):.1f} dB on average" if lossy else "equal"
    return f"{folder}: {wanted} episodes, {start} frames; actions, states, rewards equal; images {images}"


def check_episode(dataset: Any, expected: Expected, episode: int, start: int) -> list[float]:
    """Returns the PSNR [dB] of each camera's video, infinite where all images are equal."""
    steps = len(expected[f"{episode}/action"])
    squares = dict.fromkeys(CAMERAS, 0.0)
    for step in range(steps):
        item = dataset[start + step]
        where = f"episode {episode}, step {step}"
        if (int(item["episode_index"]), int(item["frame_index"])) != (episode, step):
            raise SystemExit(f"{where}: is {item['episode_index']}, {item['frame_index']} to lerobot")
        if f"{episode}/instruction" in expected and item["task"] != str(expected[f"{episode}/instruction"]):
            raise SystemExit(f"{where}: task {item['task']!r}")
        for feature, name in NUMBERS.items():
            if not np.array_equal(item[feature].numpy(), expected[f"{episode}/{name}"][step]):
                raise SystemExit(f"{where}: {feature} is {item[feature].numpy()}")
        for feature, name in CAMERAS.items():
            shown = 255 * item[feature].numpy().astype(np.float64).transpose(1, 2, 0)
            squares[feature] += ((shown.round() - expected[f"{episode}/{name}"][step]) ** 2).mean() / steps
    return [10 * float(np.log10(255**2 / square)) if square else float("inf") for square in squares.values()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("expected", type=Path)
    parser.add_argument("--psnr", type=float, default=30.0, help="least PSNR [dB] of each video")
    arguments = parser.parse_args()
    with np.load(arguments.expected, allow_pickle=False) as file:
        expected = {name: file[name] for name in file.files}
    sys.stdout.write(check(arguments.dataset, expected, arguments.psnr) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
