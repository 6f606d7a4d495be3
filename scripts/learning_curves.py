"""Curves of `twinrl bench learning`, a panel per task: `python scripts/learning_curves.py runs/bench-learning PICTURE`.

Tasks that were measured, a line per seed: success while exploring, over the transitions of twin RL. The marks at its
ends are the evaluations before and after, both regions together.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.learning.run import LearningBench, plan
from protos.files import read_lines
from twin import tasks

COLOURS = ("#0072b2", "#c4520a", "#00785a")
WINDOW = 3
"""Log lines of 20 episodes each that are averaged."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A folder and a stage."""

    folder: tyro.conf.Positional[Path]
    image: tyro.conf.Positional[Path]
    start: str = "sft-3000"
    """Folder of the policies that RL started from."""
    variant: str = "demo"


def evaluated(seed: Path) -> float:
    """Percentage of successes over all regions."""
    result = json.loads((seed / "result.json").read_text(encoding="utf-8"))
    successes = result["successes"].values()
    return float(100 * sum(successes) / (result["rollouts"] * len(successes)))


def seeds_of(curves: Curves, task: str) -> list[Path]:
    """Folders of a task's finished RL stages."""
    folder = plan(LearningBench(task=task, folder=curves.folder), seed=0).runs
    return sorted(path.parent for path in (folder / f"{curves.start}-{curves.variant}").glob("seed*/result.json"))


def draw_task(axes: Axes, curves: Curves, task: str) -> None:
    """All seeds of one task."""
    for seed, colour in zip(seeds_of(curves, task), COLOURS, strict=False):
        logged = [one for one in read_lines(seed / "metrics.jsonl") if "success" in one]
        steps, shares = [one["step"] for one in logged], [100 * one["success"] for one in logged]
        windows = [shares[max(0, i - WINDOW + 1) : i + 1] for i in range(len(shares))]
        means = [sum(window) / len(window) for window in windows]
        axes.plot(steps, means, color=colour, lw=1.5, label=seed.name.replace("seed", "seed "))
        ends = [evaluated(seed.parents[1] / curves.start / seed.name), evaluated(seed)]
        axes.plot([0, max(steps)], ends, "o", color=colour, ms=6, mec="white")
    axes.set(title=task.replace("_", " "), ylim=(0, 103), xlabel="transitions of twin RL")
    axes.locator_params(axis="x", nbins=4)
    axes.grid(color="#dcdcd6")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    curves = tyro.cli(Curves, description=__doc__)
    measured = [task for task in tasks.names() if seeds_of(curves, task)]
    figure = Figure(figsize=(3.4 * len(measured), 3.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, measured, strict=True):
        draw_task(axes, curves, task)
    panels[0].set_ylabel("success [%]")
    panels[-1].legend(frameon=False, loc="lower right")
    figure.savefig(curves.image)


if __name__ == "__main__":
    main()
