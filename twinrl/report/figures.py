"""Charts as SVG that follows the page: text is text, and colours are the page's, so dark mode works.

matplotlib draws in placeholder colours; each is replaced by a CSS variable of the page (`COLOURS`). The series colours
are Okabe and Ito's, which remain distinct for colour-blind readers; lines differ in dash as well.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from protos.space import ConfigurationSpace
from twinrl.report.inputs import LEARNING_STAGES, EpisodeLine, Rate, RunFiles, moving_mean

INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004")
COLOURS = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {s: f"--series-{i + 1}" for i, s in enumerate(SERIES)}
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
MAX_POINTS = 400
"""Longer lines are thinned to this many points: a page of charts stays small."""
MARGIN_M = 0.012
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One named line of a chart."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    steps: bool = False
    """Drawn as stairs: the value holds until the next one."""


@contextmanager
def house_style() -> Iterator[None]:
    """The page's chart style, without touching the process's own."""
    with mpl.rc_context(STYLE):
        yield


def chart(panels: Mapping[str, Sequence[Line]], x_label: str, *, size: tuple[float, float], share: bool = False) -> str:
    """Panels above each other on one x axis; `share` fixes the y axis to 0..100 %."""
    with house_style():
        figure = Figure(figsize=(size[0], size[1] * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (title, lines) in zip(axes, panels.items(), strict=True):
            _panel(axis, title, lines)
            if share or title.endswith("%"):
                axis.set_ylim(-2, 102)
        axes[-1].set_xlabel(x_label)
        return to_svg(figure, f"{', '.join(panels)} against {x_label}")


def heat_map(episodes: Sequence[EpisodeLine], space: ConfigurationSpace, label: str) -> str:
    """Success over the table from above, the robot below the image: a colour per cell, a mark per rollout."""
    with house_style():
        figure = Figure(figsize=(3.4, 1.95), layout="constrained")
        axis = figure.subplots()
        for cell in range(space.cells):
            _cell(axis, space, cell, [episode for episode in episodes if episode.cell == cell])
        for name, box in space.regions.items():
            rate = Rate.of(episode.success for episode in episodes if episode.region == name)
            axis.text(sum(box.y) / 2, box.x[0] - MARGIN_M, f"{name}  {rate.successes}/{rate.trials}", ha="center")
        limits = [(box.y, box.x) for box in space.regions.values()]
        axis.set_xlim(min(y[0] for y, _ in limits) - MARGIN_M, max(y[1] for y, _ in limits) + MARGIN_M)
        axis.set_ylim(max(x[1] for _, x in limits) + MARGIN_M, min(x[0] for _, x in limits) - 3 * MARGIN_M)
        axis.set_aspect("equal")
        axis.grid(visible=False)
        axis.set_xlabel("y [m]")
        axis.set_ylabel("x [m]")
        return to_svg(figure, label)


def colour_stops(count: int = 9) -> str:
    """The heat-map's colours as a CSS gradient from 0 to 100 %."""
    return ", ".join(colour_of(share) for share in np.linspace(0, 1, count))


def to_svg(figure: Figure, label: str) -> str:
    """A figure as an inline SVG element with the page's colours and a label for screen readers."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for placeholder, variable in COLOURS.items():
        svg = svg.replace(placeholder, f"var({variable})")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[a-z]+[_\d.a-z]*">', "<g>", svg)
    svg = re.sub(r"font: ([\d.]+px) 'sans-serif'[^;\"]*", r"font-size: \1", svg)
    element = rf'<svg viewBox="\1" role="img" aria-label="{label}">'
    return re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', element, svg, count=1)


def _panel(axis: Any, title: str, lines: Sequence[Line]) -> None:
    axis.set_title(title)
    for line, colour, dash in zip(lines, SERIES, DASHES, strict=False):
        x, y = _thin(np.asarray(line.x, float)), _thin(np.asarray(line.y, float))
        axis.plot(
            x, y, color=colour, linestyle=dash, label=line.label, drawstyle="steps-post" if line.steps else "default"
        )
    axis.locator_params(axis="y", nbins=4)
    axis.locator_params(axis="x", nbins=6)
    if len(lines) > 1:
        axis.legend(loc="best", fontsize=8, labelcolor=INK)


def _thin(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if len(values) <= MAX_POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, MAX_POINTS).astype(int)]


def _cell(axis: Any, space: ConfigurationSpace, cell: int, episodes: Sequence[EpisodeLine]) -> None:
    _, box = space.cell_box(cell)
    rate = Rate.of(episode.success for episode in episodes)
    fill = colour_of(rate.share) if episodes else "none"
    size = (box.y[1] - box.y[0], box.x[1] - box.x[0])
    axis.add_patch(Rectangle((box.y[0], box.x[0]), *size, facecolor=fill, edgecolor=GRID, linewidth=0.5))
    mark = "#ffffff" if rate.share < 0.5 else "#101010"
    for success, shape, filled in ((True, "o", True), (False, "x", False)):
        shown = [episode for episode in episodes if episode.success is success]
        axis.plot(
            [episode.y for episode in shown],
            [episode.x for episode in shown],
            shape,
            color=mark,
            markersize=3.2 if filled else 3.6,
            markeredgewidth=0.0 if filled else 1.0,
        )


def colour_of(share: float) -> str:
    return mpl.colors.to_hex(mpl.colormaps["cividis"](share))


WINDOW = 20
"""Episodes in the moving mean of success."""
NOT_CURVES = {"t", "step", "total", "updates"}
AGE_KEYS = {"sample_age": "mean", "sample_age_p95": "95th percentile"}
WIDE = (8.8, 1.5)
SMALL = (3.3, 1.7)
X_LABELS = dict.fromkeys(("sft_a", "sft_ab"), "updates") | dict.fromkeys(("twin_rl", "real_rl"), "environment steps")


def real_curves(episodes: Sequence[EpisodeLine]) -> list[str]:
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


def guidance_curves(run: RunFiles) -> str:
    """S_target and the twins beside the arm against robot time; empty without a robot's clock to put them on."""
    clock = [(episode.t, episode.robot_s / 60) for episode in run.real_episodes if episode.t]
    if not clock or not run.targets:
        return ""
    unix_s, minutes = zip(*clock, strict=True)
    x = np.interp([line["t"] for line in run.targets], unix_s, minutes).tolist()
    regions = sorted({name for line in run.targets for name in line["regions"]})

    def by_region(key: str, scale: float) -> list[Line]:
        values = {name: [scale * line["regions"][name][key] for line in run.targets] for name in regions}
        return [Line(label=f"region {name}", x=x, y=y, steps=True) for name, y in values.items()]

    panels = {
        "cells in S_target": by_region("targets", 1.0),
        "success that the guide's map expects, %": by_region("success", 100.0),
    }
    for key, title in (("scans_per_min", "scan results per minute"), ("transitions_per_s", "twin transitions per s")):
        told = [line for line in run.beside_arm if isinstance(line.get(key), int | float)]
        if told:
            when = np.interp([line["t"] for line in told], unix_s, minutes).tolist()
            panels[title] = [Line(label=title, x=when, y=[line[key] for line in told])]
    return chart(panels, "robot time [min]", size=(WIDE[0], 1.35))


@dataclass(frozen=True, kw_only=True)
class Learning:
    """The numbers that the learners of one stage logged."""

    charts: list[str]
    """A small chart of every number that changed."""
    constants: list[str]
    """The others, as "stalls 0"."""


def learning_curves(run: RunFiles) -> dict[str, Learning]:
    """Draws every number the learner logged that changed, SFT policies together, by printed stage name."""
    groups = {"SFT": ("sft_a", "sft_ab"), "Twin RL": ("twin_rl",), "Real RL": ("real_rl",)}
    found: dict[str, Learning] = {}
    for title, stages in groups.items():
        charts, constants = [], []
        for key in sorted({key for stage in stages for key in _numbers(run.metrics[stage])}):
            lines = _stage_lines(run, stages, key)
            values = {value for line in lines for value in line.y}
            if len(values) > 1:
                charts.append(chart({_title(key): lines}, X_LABELS[stages[0]], size=SMALL))
            else:
                constants.append(f"{_title(key)} {values.pop():g}")
        if charts or constants:
            found[title] = Learning(charts=charts, constants=constants)
    return found


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
