"""This benchmark compares the scan's splats with gsplat's own recipe: `python -m benchmarks.scan.gpu PHOTOS`.

    photos ─► poses, sparse points ─┬─► twin.scan.train ─┬─► Splats ─► PSNR, SSIM on views that neither has seen
                                    └─► `Recipe` ────────┘

One line where there is no GPU. Both train at the same width and hold out the same photos; both are drawn by the same
renderer for the comparison. A scan is made for small policy cameras in seconds, the recipe for the best image.
"""

import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.measure import hardware, table
from benchmarks.scan.gsplat_recipe import Recipe, train_by
from protos.errors import InputError, TwinRLError
from twin import render
from twin.scan import report
from twin.scan.frames import FrameSettings, collect
from twin.scan.sfm import SfmSettings, reconstruct
from twin.scan.train import TrainSettings, train

COLUMNS = ("training", "steps", "splats", "seconds", "PSNR [dB]", "SSIM")


@dataclass(frozen=True, kw_only=True)
class ScanGpuSettings:
    """Settings of the comparison."""

    photos: Annotated[Path, tyro.conf.Positional]
    train: TrainSettings = field(default_factory=lambda: TrainSettings(hold_out=5, width=480))
    recipe_steps: tuple[int, ...] = (7_000, 30_000)
    """Numbers of steps after which the recipe is measured, as its trainer does."""


def scan_table(settings: ScanGpuSettings) -> str:
    """Returns the figures as markdown. Raises `InputError` in one line on a machine where gsplat cannot draw."""
    obstacle = render.get("gsplat").obstacle()
    if obstacle is not None:
        raise InputError(obstacle)
    import gsplat

    with tempfile.TemporaryDirectory(prefix="twinrl-benchmark-") as work:
        frames = collect(settings.photos, Path(work) / "frames", FrameSettings())
        scene = reconstruct(frames, Path(work) / "sfm", SfmSettings(), lambda *_: None)
    started = time.perf_counter()
    ours = train(scene, settings.train, lambda *_: None)
    trained = {("twin.scan", settings.train.steps): (ours.splats, time.perf_counter() - started)}
    for steps in settings.recipe_steps:
        started = time.perf_counter()
        recipe = replace(Recipe(), steps=steps)
        splats = train_by(recipe, scene, ours.held_out, settings.train.width, gsplat.rasterization)
        trained["gsplat's recipe", steps] = splats, time.perf_counter() - started
    rows = []
    for (name, steps), (splats, seconds) in trained.items():
        shown = report.draw(splats, scene.views, ours.held_out, scene.views[0].camera, settings.train.width)
        quality = f"{shown.psnr_db():.1f}", f"{shown.ssim():.3f}"
        rows.append((name, steps, len(splats), f"{seconds:.0f}", *quality))
    return f"{hardware()}\n\n{table(COLUMNS, rows)}"


def main() -> int:
    """Prints the figures, or the reason why there are none."""
    try:
        sys.stdout.write(scan_table(tyro.cli(ScanGpuSettings, description=__doc__)) + "\n")
    except TwinRLError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
