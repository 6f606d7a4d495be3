"""This module draws where twin demonstrations were made, as an image and a page of its own."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from twin.expand.coverage import Coverage
from twinrl.report.figures import GRID, MARGIN_M, colour_of, house_style, to_svg

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
:root {{ --ink: #1c1c1c; --muted: #666; --grid: #ddd; color-scheme: light dark; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #eee; --muted: #aaa; --grid: #444; }}
  body {{ background: #151515; }}
}}
body {{ font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); max-width: 60rem; margin: 2rem auto; }}
svg {{ width: 100%; height: auto; }} pre {{ overflow-x: auto; }}
</style></head><body><h1>{title}</h1>
<p>The table from above, the robot below the image. Each field is a cell of the grid of start positions: accepted of
tried, coloured by the share that was accepted.</p>{svg}<pre>{table}</pre></body></html>
"""


def coverage_page(coverage: Coverage, task: str) -> str:
    """A page that needs nothing else."""
    title = f"Twin demonstrations of {task}"
    return PAGE.format(title=title, svg=coverage_map(coverage), table=coverage.table())


def coverage_map(coverage: Coverage) -> str:
    """An inline SVG: accepted of tried in every cell."""
    with house_style():
        return to_svg(coverage_figure(coverage), "accepted twin demonstrations by cell")


def coverage_figure(coverage: Coverage) -> Figure:
    """The same as a figure, in the colours that `figures.to_svg` replaces."""
    space = coverage.space
    figure = Figure(figsize=(6.8, 3.4), layout="constrained")
    axis = figure.subplots()
    for cell in range(space.cells):
        _cell(axis, coverage, cell)
    for name, box in space.regions.items():
        axis.text(sum(box.y) / 2, box.x[0] - MARGIN_M, f"{name}  {coverage.accepted_in(name)}", ha="center")
    limits = [(box.y, box.x) for box in space.regions.values()]
    axis.set_xlim(min(y[0] for y, _ in limits) - MARGIN_M, max(y[1] for y, _ in limits) + MARGIN_M)
    axis.set_ylim(max(x[1] for _, x in limits) + MARGIN_M, min(x[0] for _, x in limits) - 3 * MARGIN_M)
    axis.set_aspect("equal")
    axis.grid(visible=False)
    axis.set_xlabel("y [m]")
    axis.set_ylabel("x [m]")
    return figure


def _cell(axis: Any, coverage: Coverage, cell: int) -> None:
    _, box = coverage.space.cell_box(cell)
    tried, kept = coverage.tried(cell), coverage.accepted[cell]
    size = (box.y[1] - box.y[0], box.x[1] - box.x[0])
    fill = colour_of(kept / tried) if tried else "none"
    axis.add_patch(Rectangle((box.y[0], box.x[0]), *size, facecolor=fill, edgecolor=GRID, linewidth=0.5))
    if tried:
        ink = "#ffffff" if 2 * kept < tried else "#101010"
        middle = (sum(box.y) / 2, sum(box.x) / 2)
        axis.text(*middle, f"{kept}/{tried}", ha="center", va="center", color=ink, fontsize=8)
