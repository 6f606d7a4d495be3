"""This module reads a run folder once and changes nothing in it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError
from protos.files import read_lines, read_object

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """`successes` of `trials`."""

    successes: int
    trials: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> "Rate":
        """Counts booleans."""
        counted = list(outcomes)
        return cls(successes=sum(counted), trials=len(counted))

    @property
    def share(self) -> float:
        """The observed share; NaN without trials."""
        return self.successes / self.trials if self.trials else math.nan

    def interval(self) -> tuple[float, float]:
        """Wilson score interval at 95 % (E. B. Wilson, 1927): sound for few trials and for shares near 0 and 1."""
        if not self.trials:
            return 0.0, 1.0
        n, p = self.trials, self.share
        scale = 1 + Z_95**2 / n
        centre = (p + Z_95**2 / (2 * n)) / scale
        half = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2)) / scale
        low = 0.0 if self.successes == 0 else centre - half
        high = 1.0 if self.successes == n else centre + half
        return low, high


def moving_mean(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """Mean of the last `window` values at each position; over fewer where there are not that many yet."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


EVALUATIONS = {
    "sft_a_twin": ("SFT on demonstrations in A only", "twin"),
    "sft_ab_twin": ("SFT on demonstrations in A and B", "twin"),
    "twin_rl_twin": ("after twin RL", "twin"),
    "before_standin": ("after twin RL, before real RL", "arm"),
    "after_standin": ("after real RL", "arm"),
}
"""Name of the evaluation's file: what the policy had learned from, and the world it was tried in."""

LEARNING_STAGES = {"sft_a": "SFT, A only", "sft_ab": "SFT, A and B", "twin_rl": "twin RL", "real_rl": "real RL"}


@dataclass(frozen=True, kw_only=True)
class EpisodeLine:
    """One finished episode as a line of the run folder tells it. Lengths in metres, base frame."""

    region: str
    cell: int
    x: float
    y: float
    success: bool
    steps: int
    human_steps: int
    interventions: int
    version: int
    total_steps: int = 0
    robot_s: float = 0.0
    t: float = 0.0
    """Unix seconds of its end; 0 where the line does not say."""

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> "EpisodeLine":
        """Reads one JSON line; unknown keys are left out."""
        return cls(**{name: kind(line[name]) for name, kind in _KINDS.items() if name in line})


_KINDS = {
    "region": str,
    "cell": int,
    "x": float,
    "y": float,
    "success": bool,
    "steps": int,
    "human_steps": int,
    "interventions": int,
    "version": int,
    "total_steps": int,
    "robot_s": float,
    "t": float,
}


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """Everything the report is made from; empty where the run has not written it."""

    folder: Path
    settings: dict[str, Any]
    stages: list[dict[str, Any]]
    evaluations: dict[str, list[EpisodeLine]]
    real_episodes: list[EpisodeLine]
    targets: list[dict[str, Any]]
    """S_target over time, as the guide kept it."""
    beside_arm: list[dict[str, Any]]
    """Lines of the fleet beside the arm."""
    metrics: dict[str, list[dict[str, Any]]]
    """Lines by stage: the learner's, then those that the run wrote about the same stage."""
    scan: dict[str, Any]
    fidelity: dict[str, Any]
    lab: dict[str, Any]
    """The lab of the stand-in (`twin.labs.Lab`)."""
    station: dict[str, Any]
    """The lab's own arm (`actors.real.Station`); empty for a stand-in."""
    images: list[Path]
    missing: list[str] = field(default_factory=list)
    """Files the report would have shown, relative to the run folder."""

    @property
    def arm(self) -> str:
        """The word for what the arm was."""
        return "arm" if self.station else "stand-in arm"

    def world(self, evaluation: str) -> str:
        """Returns the world in which a policy was tried."""
        world = EVALUATIONS[evaluation][1]
        return self.arm if world == "arm" else world


def read_run_files(folder: Path) -> RunFiles:
    """Reads a run folder, complete or not."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder")
    evaluations = {name: _episodes(folder / "eval" / f"{name}.jsonl") for name in EVALUATIONS}
    run_lines = read_lines(folder / "metrics.jsonl")
    metrics = {
        name: read_lines(folder / name / "metrics.jsonl") + [line for line in run_lines if line.get("stage") == name]
        for name in LEARNING_STAGES
    }
    real_episodes = _episodes(folder / "real_rl" / "episodes.jsonl")
    targets = read_lines(folder / "guide" / "targets.jsonl")
    stages, settings = read_lines(folder / "stages.jsonl"), read_object(folder / "settings.json")
    fidelity, lab = read_object(folder / "fidelity.json"), read_object(folder / "lab.json")
    station = read_object(folder / "station.json")
    scan, images = read_object(folder / "scene" / "report.json"), sorted((folder / "images").glob("*.png"))
    present: dict[str, Sequence[Any] | Mapping[str, Any]] = {
        "settings.json": settings,
        "stages.jsonl": stages,
        "scene/report.json": scan,
        "fidelity.json": fidelity,
        "lab.json": lab or station,
        **{f"eval/{name}.jsonl": episodes for name, episodes in evaluations.items()},
        **{f"{name}/metrics.jsonl": lines for name, lines in metrics.items()},
        "real_rl/episodes.jsonl": real_episodes,
        "guide/targets.jsonl": targets,
        "images/*.png": images,
    }
    return RunFiles(
        folder=folder,
        settings=settings,
        stages=stages,
        evaluations=evaluations,
        real_episodes=real_episodes,
        targets=targets,
        beside_arm=[line for line in run_lines if line.get("stage") == "beside_arm"],
        metrics=metrics,
        scan=scan,
        fidelity=fidelity,
        lab=lab,
        station=station,
        images=images,
        missing=[name for name, content in present.items() if not content],
    )


def rates_by_region(episodes: Sequence[EpisodeLine]) -> dict[str, Rate]:
    """Success in every region that was tried, in order of their names."""
    regions = sorted({episode.region for episode in episodes})
    return {name: Rate.of(episode.success for episode in episodes if episode.region == name) for name in regions}


def _episodes(path: Path) -> list[EpisodeLine]:
    """The whole episode lines of a file; a line that lacks a field stops the report with its name."""
    try:
        return [EpisodeLine.read(line) for line in read_lines(path)]
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: not a file of episodes: {error}") from error
