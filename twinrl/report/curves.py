"""Which curves the report shows, from which lines of the run folder."""

from collections.abc import Mapping, Sequence
from typing import Any

from twinrl.report.figures import Line, chart
from twinrl.report.inputs import LEARNING_STAGES, Episode, RunFiles
from twinrl.report.statistics import moving_mean

WINDOW = 20
"""Episodes in the moving mean of success."""
NOT_CURVES = {"t", "step", "total", "updates"}
AGE_KEYS = {"sample_age": "mean", "sample_age_p95": "95th percentile"}
WIDE = (8.8, 1.5)
SMALL = (3.3, 1.7)
X_LABELS = dict.fromkeys(("sft_a", "sft_ab"), "updates") | dict.fromkeys(("twin_rl", "real_rl"), "environment steps")


def real_curves(episodes: Sequence[Episode]) -> list[str]:
    """Success, interventions and weight version on the arm, against real steps and against robot time."""
    if not episodes:
        return []
    alone = [100.0 * (episode.success and episode.human_steps == 0) for episode in episodes]
    helped = [100.0 * episode.success for episode in episodes]
    interventions, so_far = [], 0
    for episode in episodes:
        so_far += episode.interventions
        interventions.append(so_far)
    axes = {
        "real environment steps": [float(episode.total_steps) for episode in episodes],
        "robot time [min]": [episode.robot_s / 60 for episode in episodes],
    }
    return [
        chart(
            {
                f"success, mean of the last {WINDOW} episodes, %": [
                    Line(label="policy alone", x=x, y=moving_mean(alone, WINDOW).tolist()),
                    Line(label="with the operator's help", x=x, y=moving_mean(helped, WINDOW).tolist()),
                ],
                "interventions so far": [Line(label="interventions", x=x, y=interventions, steps=True)],
                "weight version acting": [
                    Line(label="version", x=x, y=[episode.version for episode in episodes], steps=True)
                ],
            },
            label,
            size=WIDE,
        )
        for label, x in axes.items()
    ]


def learning_curves(run: RunFiles) -> dict[str, list[str]]:
    """Small charts of every number the learner logged, SFT policies together, by printed stage name."""
    groups = {"SFT": ("sft_a", "sft_ab"), "Twin RL": ("twin_rl",), "Real RL": ("real_rl",)}
    charts: dict[str, list[str]] = {}
    for title, stages in groups.items():
        keys = sorted({key for stage in stages for key in _numbers(run.metrics[stage])})
        charts[title] = [
            chart({_title(key): _stage_lines(run, stages, key)}, X_LABELS[stages[0]], size=SMALL) for key in keys
        ]
    return {title: found for title, found in charts.items() if found}


def age_curves(run: RunFiles) -> dict[str, str]:
    """Age of the sampled transitions in policy versions, by printed stage name."""
    charts = {}
    for stage in ("twin_rl", "real_rl"):
        lines = [_line(run.metrics[stage], key, label) for key, label in AGE_KEYS.items()]
        shown = [line for line in lines if line.x]
        if shown:
            panel = {"sample age [policy versions]": shown}
            charts[LEARNING_STAGES[stage]] = chart(panel, X_LABELS[stage], size=(8.8, 1.9))
    return charts


def _stage_lines(run: RunFiles, stages: Sequence[str], key: str) -> list[Line]:
    lines = [_line(run.metrics[stage], key, LEARNING_STAGES[stage]) for stage in stages]
    return [line for line in lines if line.x]


def _line(entries: Sequence[Mapping[str, Any]], key: str, label: str) -> Line:
    points = [(float(entry.get("step", 0)), entry[key]) for entry in entries if isinstance(entry.get(key), int | float)]
    return Line(label=label, x=[x for x, _ in points], y=[y for _, y in points])


def _numbers(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the scalars worth a curve: those logged at two different steps at least."""
    steps: dict[str, set[float]] = {}
    for entry in entries:
        for key, value in entry.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                steps.setdefault(key, set()).add(float(entry.get("step", 0)))
    return [key for key, seen in steps.items() if len(seen) > 1 and key not in NOT_CURVES | set(AGE_KEYS)]


def _title(key: str) -> str:
    return key.replace("_", " ").replace("/", ": ")
