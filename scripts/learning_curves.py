"""Curves of `twinrl bench learning`, a panel per task: `python scripts/learning_curves.py runs/bench-learning PICTURE`.

A line per seed: success while exploring, over the transitions of twin RL. The marks at its ends are the evaluations
before and after, both regions together.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from twin import tasks

COLOURS = ("#0072b2", "#c4520a", "#00785a")
WINDOW = 3
"""Log lines of 20 episodes each that are averaged."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Which folder, which stage."""

    folder: tyro.conf.Positional[Path]
    picture: tyro.conf.Positional[Path]
    start: str = "sft-1500"
    """Folder of the policies that RL started from."""
    variant: str = "demo"


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSON Lines file."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def evaluated(seed: Path) -> float:
    """Percentage of successes over all regions."""
    result = json.loads((seed / "result.json").read_text(encoding="utf-8"))
    successes = result["successes"].values()
    return float(100 * sum(successes) / (result["rollouts"] * len(successes)))


def draw_task(axes: Axes, curves: Curves, task: str) -> None:
    """All seeds of one task."""
    folder = curves.folder if task == "pick_and_place" else curves.folder / task
    for seed, colour in zip(sorted((folder / f"{curves.start}-{curves.variant}").glob("seed*")), COLOURS, strict=False):
        logged = [one for one in lines_of(seed / "metrics.jsonl") if "success" in one]
        steps = [one["step"] for one in logged]
        means = [sum(o["success"] for o in logged[max(0, i - WINDOW + 1) : i + 1]) for i in range(len(logged))]
        shares = [100 * total / min(i + 1, WINDOW) for i, total in enumerate(means)]
        axes.plot(steps, shares, color=colour, lw=1.5, label=seed.name.replace("seed", "seed "))
        ends = [evaluated(folder / curves.start / seed.name), evaluated(seed)]
        axes.plot([0, max(steps)], ends, "o", color=colour, ms=6, mec="white")
    axes.set(title=task.replace("_", " "), ylim=(0, 103), xlabel="transitions of twin RL")
    axes.grid(color="#dcdcd6")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    curves = tyro.cli(Curves, description=__doc__)
    figure = Figure(figsize=(13, 3.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    for axes, task in zip(panels, tasks.names(), strict=True):
        draw_task(axes, curves, task)
    panels[0].set_ylabel("success [%]")
    panels[-1].legend(frameon=False)
    figure.savefig(curves.picture)


if __name__ == "__main__":
    main()
