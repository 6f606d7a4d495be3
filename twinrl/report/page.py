"""Puts the page together: reads the run folder, draws, fills the template."""

import base64
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from protos.space import ConfigurationSpace
from twinrl.report import curves, figures, sections
from twinrl.report.inputs import EVALUATIONS, RunFiles, read_run_files

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
    environment.filters["sentence"] = sections.sentence
    page = environment.from_string(TEMPLATE.read_text()).render(_context(run))
    partial = run_dir / "report.html.part"
    partial.write_text(page)
    return partial.replace(run_dir / "report.html")


def _context(run: RunFiles) -> dict[str, Any]:
    settings = sections.flatten(run.settings)
    return {
        "name": run.folder.resolve().name,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "seed": settings.get("seed", "–"),
        "versions": sections.versions(),
        "tiles": sections.tiles(run),
        "rows": sections.success_rows(run),
        "maps": _maps(run),
        "colour_stops": figures.colour_stops(),
        "real": [_markup(svg) for svg in curves.real_curves(run.real_episodes)],
        "help": sections.help_summary(run.real_episodes),
        "learning": {title: [_markup(svg) for svg in found] for title, found in curves.learning_curves(run).items()},
        "ages": {title: _markup(svg) for title, svg in curves.age_curves(run).items()},
        "throughput": sections.throughput_rows(run),
        "fidelity": run.fidelity,
        "scan": sections.scan_rows(run.scan),
        "pictures": [(sections.picture_caption(path.stem), _data_url(path)) for path in run.pictures],
        "settings": {key: sections.show(value) for key, value in settings.items()},
        "settings_json": json.dumps(run.settings, indent=2),
        "missing": run.missing,
        "window": curves.WINDOW,
    }


def _maps(run: RunFiles) -> Mapping[str, list[tuple[str, Markup]]]:
    """Heat-maps by world."""
    space = _space(run.settings)
    found: dict[str, list[tuple[str, Markup]]] = {}
    for name, (policy, world) in EVALUATIONS.items():
        if run.evaluations[name]:
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
