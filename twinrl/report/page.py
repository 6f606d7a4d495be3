"""Puts the page together: reads the run folder, draws, fills the template."""

import base64
import importlib.metadata
import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from protos.space import ConfigurationSpace
from protos.status import duration
from twinrl.report import figures
from twinrl.report import figures as curves
from twinrl.report.inputs import EVALUATIONS, EpisodeLine, Rate, RunFiles, rates_by_region, read_run_files

TEMPLATE = Path(__file__).with_name("template.html")


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into a run folder from what is there and returns its path.

    A missing input is named in the page. Raises InputError when the folder does not exist or a file of episodes holds
    something else.
    """
    run = read_run_files(run_dir)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["sentence"] = sentence
    page = environment.from_string(TEMPLATE.read_text()).render(_context(run))
    partial = run_dir / "report.html.part"
    partial.write_text(page)
    return partial.replace(run_dir / "report.html")


def _context(run: RunFiles) -> dict[str, Any]:
    settings = flatten(run.settings)
    return {
        "name": run.folder.resolve().name,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "seed": settings.get("seed", "–"),
        "versions": versions(),
        "tiles": tiles(run),
        "rows": success_rows(run),
        "maps": _maps(run),
        "colour_stops": figures.colour_stops(),
        "real": [_markup(svg) for svg in curves.real_curves(run.real_episodes)],
        "help": help_summary(run.real_episodes),
        "guidance": _markup(curves.guidance_curves(run)),
        "twins": twins_summary(run),
        "learning": {
            title: ([_markup(svg) for svg in found.charts], found.constants)
            for title, found in curves.learning_curves(run).items()
        },
        "ages": {title: _markup(svg) for title, svg in curves.age_curves(run).items()},
        "throughput": throughput_rows(run),
        "fidelity": run.fidelity,
        "lab": lab_rows(run.lab),
        "arm": run.arm,
        "is_standin": not run.station,
        "operator": run.station.get("operator", "scripted"),
        "scan": scan_rows(run.scan),
        "images": [(image_caption(path.stem), _data_url(path)) for path in run.images],
        "settings": {key: show(value) for key, value in settings.items()},
        "settings_json": json.dumps(run.settings, indent=2),
        "missing": run.missing,
        "window": curves.WINDOW,
    }


def _maps(run: RunFiles) -> Mapping[str, list[tuple[str, Markup]]]:
    """Heat-maps by world."""
    space = _space(run.settings)
    found: dict[str, list[tuple[str, Markup]]] = {}
    for name, (policy, _) in EVALUATIONS.items():
        if run.evaluations[name]:
            world = run.world(name)
            svg = figures.heat_map(run.evaluations[name], space, f"success map: {policy}, {world}")
            found.setdefault(world, []).append((policy, _markup(svg)))
    return found


def _space(settings: Mapping[str, Any]) -> ConfigurationSpace:
    """The grid of the run's task."""
    from twin import tasks

    return tasks.get(str(settings.get("task", "pick_and_place"))).space


def _markup(svg: str) -> Markup:
    """Our own SVG, which the template must not escape."""
    return Markup(svg)


def _data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


NO_BREAK = "\u00a0"
PACKAGES = ("twinrl", "torch", "ray", "mujoco", "numpy", "numba", "pycolmap", "ur-rtde")
SCAN_LABELS = {
    "source": "capture",
    "photos": "photos given",
    "pictures": "photos given",  # in reports of 0.1
    "registered": "photos registered",
    "dropped": "photos dropped as blurred or repeated",
    "thinned": "frames of a video left out for a sharper one",
    "others": "groups of photos that fit to each other alone",
    "alone": "photos that fit to no other",
    "masked_percent": "pixels masked or beyond the lens [%]",
    "points": "sparse points",
    "reprojection_px": "reprojection error, mean [px]",
    "scale_provenance": "scale from",
    "metres_per_unit": "metres per unit of the reconstruction",
    "scale_spread_percent": "spread of the scale over the known distances [%]",
    "scale_residual_mm": "what fixed the scale misses by, RMS [mm]",
    "scale_residual_px": "what fixed the scale misses by, RMS [px]",
    "placement": "placed by",
    "table_points": "points on the table plane",
    "table_spread_mm": "their distance from it, RMS [mm]",
    "held_out": "views held out",
    "held_out_psnr_db": "PSNR on held-out views [dB]",
    "held_out_ssim": "SSIM on held-out views",
    "held_out_size": "size of the held-out views [px]",
}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One headline number."""

    title: str
    value: str
    note: str


@dataclass(frozen=True, kw_only=True)
class SuccessRow:
    """One policy in one world and region."""

    policy: str
    world: str
    region: str
    rate: Rate
    steps: str
    helped: int
    """Episodes in which the operator acted; an evaluation has none."""

    @property
    def percent(self) -> str:
        return percent(self.rate.share)

    @property
    def interval(self) -> str:
        low, high = self.rate.interval()
        return f"{100 * low:.0f}–{100 * high:.0f} %"


def percent(share: float) -> str:
    """A share as "92 %", a dash without trials; never rounded to 100 % (or 0 %) unless it is."""
    if math.isnan(share):
        return "–"
    shown = round(100 * share)
    if (shown == 100 and share < 1) or (shown == 0 and share > 0):
        return f"{100 * share:.1f} %"
    return f"{shown} %"


def success_rows(run: RunFiles) -> list[SuccessRow]:
    """Every evaluation by region."""
    rows = []
    for name, (policy, _) in EVALUATIONS.items():
        episodes = run.evaluations[name]
        for region, rate in rates_by_region(episodes).items():
            here = [episode for episode in episodes if episode.region == region]
            won = [episode.steps for episode in here if episode.success]
            rows.append(
                SuccessRow(
                    policy=policy,
                    world=run.world(name),
                    region=region,
                    rate=rate,
                    steps=f"{np.median(won):.0f}" if won else "–",
                    helped=sum(episode.human_steps > 0 for episode in here),
                )
            )
    return rows


def tiles(run: RunFiles) -> list[Tile]:
    """The numbers to read first; only those that the run has."""
    found = []
    for name in ("sft_a_twin", "twin_rl_twin", "before_standin", "after_standin"):
        rates = rates_by_region(run.evaluations[name])
        if rates:
            policy, world = EVALUATIONS[name][0], run.world(name)
            value = " · ".join(
                f"{region} {percent(rate.share)}".replace(" ", NO_BREAK) for region, rate in rates.items()
            )
            found.append(Tile(title=f"{policy}", value=value, note=f"success on the {world}, by region"))
    if run.real_episodes:
        last = run.real_episodes[-1]
        note = f"{len(run.real_episodes)} episodes, {last.total_steps:,} steps of real RL"
        found.append(Tile(title="robot time", value=f"{duration(last.robot_s)}", note=note))
    if run.stages:
        wall_s = sum(float(stage.get("wall_s", 0)) for stage in run.stages)
        found.append(Tile(title="wall time", value=duration(wall_s), note=f"sum over {len(run.stages)} stages"))
    return found


def help_summary(episodes: list[EpisodeLine]) -> str:
    """One sentence on what the operator did during real RL."""
    takeovers = sum(episode.interventions for episode in episodes)
    human, steps = sum(episode.human_steps for episode in episodes), sum(episode.steps for episode in episodes)
    share = percent(human / steps) if steps else "–"
    made = f"the operator made {human:,} of {steps:,} steps ({share})"
    return f"{takeovers} interventions in {len(episodes)} episodes; {made}."


def twins_summary(run: RunFiles) -> str:
    """One sentence on what the twins did beside the arm."""
    if not run.beside_arm:
        return "No twin was at work beside the arm."
    scans = max((int(line.get("scans", 0)) for line in run.beside_arm), default=0)
    steps = max((int(line.get("step", 0)) for line in run.beside_arm), default=0)
    return f"Beside the arm the twins collected {steps:,} transitions and tried {scans:,} starts for the guide."


def throughput_rows(run: RunFiles) -> list[dict[str, str | float]]:
    """Stage, amount, times and rates; `width` is the stage's share of the wall time in percent."""
    total_s = sum(float(stage.get("wall_s", 0)) for stage in run.stages) or 1.0
    rows: list[dict[str, str | float]] = []
    for stage in run.stages:
        wall_s, cpu_s, count = (float(stage.get(key) or 0) for key in ("wall_s", "cpu_s", "count"))
        unit = str(stage.get("unit", ""))
        rows.append(
            {
                "stage": str(stage.get("stage", "?")),
                "amount": f"{count:,.0f} {unit}" if count else "–",
                "wall": duration(wall_s),
                "cpu": f"{cpu_s:,.0f}" if cpu_s else "–",
                "per_s": _rate(count, wall_s),
                "per_cpu_s": _rate(count, cpu_s),
                "width": 100 * wall_s / total_s,
            }
        )
    return rows


def scan_rows(scan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The scan's own report as label and value; matrices and lists of more than four are left to the scan's page."""
    rows = []
    for key, value in flatten(scan).items():
        if not (isinstance(value, list) and (len(value) > 4 or any(isinstance(one, list) for one in value))):
            rows.append((SCAN_LABELS.get(key, key.replace("_", " ")), show(value)))
    return rows


def lab_rows(lab: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lab of the stand-in as label and value; of shadows and things about only their number."""
    rows = []
    for key, value in flatten(lab).items():
        counted = len(value) if key in ("surroundings.shadows", "surroundings.things") else value
        rows.append((key, show(counted)))
    return rows


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names, as they are given on the command line."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def show(value: Any) -> str:
    """A value for a table cell."""
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, list):
        return ", ".join(show(one) for one in value) or "–"
    return "–" if value is None or value == "" else str(value)


def image_caption(stem: str) -> str:
    """A sentence from a file name: "standin_wrist" reads "Stand-in, wrist camera"."""
    world, _, camera = stem.replace("standin", "stand-in").rpartition("_")
    return sentence(f"{world}, {camera} camera" if camera in ("side", "wrist") else stem.replace("_", " "))


def sentence(text: str) -> str:
    """The text with a capital first letter, the others as they are."""
    return text[:1].upper() + text[1:]


def versions() -> str:
    """Returns the versions of Python and of the main libraries."""
    present = {one.metadata["Name"].lower().replace("_", "-") for one in importlib.metadata.distributions()}
    named = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES if name in present]
    return f"Python {platform.python_version()}, {', '.join(named)} on {platform.system()} {platform.machine()}"


def _rate(count: float, seconds: float) -> str:
    if not count or not seconds:
        return "–"
    return f"{count / seconds:,.0f}" if count > 10 * seconds else f"{count / seconds:.2g}"
