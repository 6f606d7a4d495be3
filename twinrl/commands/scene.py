"""This module holds the commands that make and show scene folders.

photos ─► twinrl points ─► capture.toml ─► twinrl scan ─► scene/ ─► twinrl align ─► twinrl cut ─► twinrl view
"""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from protos.folders import owned
from twin.align import SceneAlignSettings
from twin.objects import FOLDER, CutSettings
from twin.scan import ScanSettings
from twinrl.viewer.serve import ViewSettings


@dataclass(frozen=True, kw_only=True)
class Points:
    """Write PHOTOS/points.html: click points whose place you know, save capture.toml, then scan."""

    photos: tyro.conf.Positional[Path]
    """Folder of photos."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Turn photos or a video of a workspace into a scene folder with a report."""

    source: tyro.conf.Positional[Path]
    """Folder of photos, or a video file."""
    out: Path
    """Scene folder to write."""
    settings: Annotated[ScanSettings, tyro.conf.arg(name="")] = field(default_factory=ScanSettings)


@dataclass(frozen=True, kw_only=True)
class Align:
    """Find the base frame of a scene from the robot that stood in the photos."""

    scene: tyro.conf.Positional[Path]
    """Scene folder made by `twinrl scan`."""
    out: Path | None = None
    """Scene folder to write; default: the same."""
    settings: Annotated[SceneAlignSettings, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Cut an object out of a scene: SCENE/objects/NAME is written, and the table closed where it stood."""

    scene: tyro.conf.Positional[Path]
    """Scene folder made by `twinrl scan`; it is changed."""
    name: str
    """Name of the object: letters, digits, underscores."""
    settings: Annotated[CutSettings, tyro.conf.arg(name="")] = field(default_factory=CutSettings)


@dataclass(frozen=True, kw_only=True)
class View:
    """Show a scene with its robot, cameras, regions and objects in the browser until Ctrl-C."""

    scene: tyro.conf.Positional[Path]
    """Scene folder, or a .ply or .spz file of splats."""
    seconds: float | None = None
    """End by itself after so long; default: at Ctrl-C."""
    settings: Annotated[ViewSettings, tyro.conf.arg(name="")] = field(default_factory=ViewSettings)


def points(arguments: Sequence[str]) -> int:
    from twin.scan import write_points_page

    page = write_points_page(tyro.cli(Points, prog="twinrl points", args=arguments).photos)
    sys.stdout.write(f"open {page.resolve().as_uri()} in a browser; it saves capture.toml\n")
    return 0


def scan(arguments: Sequence[str]) -> int:
    from twinrl.run.scan import ScanJob, run_scan, summary

    command = tyro.cli(Scan, prog="twinrl scan", args=arguments)
    report = run_scan(ScanJob(source=command.source, out=command.out, settings=command.settings))
    sys.stdout.writelines(f"warning: {line}\n" for line in report.warnings())
    sys.stdout.write(summary(report, command.out) + "\n")
    return 0


def align(arguments: Sequence[str]) -> int:
    from twin.align import align_scene

    command = tyro.cli(Align, prog="twinrl align", args=arguments)
    out = command.out or command.scene
    with owned(out, "twinrl align"):
        found = align_scene(command.scene, out, command.settings)
    scale = found.base_from_scan.scale
    sys.stdout.write(
        f"{out}: moved by {found.moved_mm:.1f} mm and {found.turned_deg:.2f} deg, scale {scale:.4f}; "
        f"outlines {found.before_px:.2f} -> {found.residual_px:.2f} px, {found.residual_mm:.1f} mm "
        f"over {len(found.views)} views; ±{found.uncertain_mm:.1f} mm of play; see {out / 'alignment.png'}\n"
    )
    return 0


def cut(arguments: Sequence[str]) -> int:
    from twin.objects import cut as cut_object

    command = tyro.cli(Cut, prog="twinrl cut", args=arguments)
    with owned(command.scene, "twinrl cut", instead="cut from a copy of the scene"):
        found = cut_object(command.scene, command.name, command.settings)
    size = " x ".join(f"{1e3 * length:.0f}" for length in found.size_m)
    x, y, _, _ = found.stood_at
    sys.stdout.write(
        f"{command.scene / FOLDER / found.name}: {len(found.splats)} splats, {size} mm, {1e3 * found.mass_kg:.0f} g, "
        f"{len(found.parts)} convex parts; it stood at x {x:.3f}, y {y:.3f} m\n"
    )
    return 0


def view(arguments: Sequence[str]) -> int:
    from twinrl.viewer.serve import serving

    command = tyro.cli(View, prog="twinrl view", args=arguments)
    with serving(command.scene, command.settings) as address:
        sys.stdout.write(f"{address}: {command.scene}; Ctrl-C ends it\n")
        sys.stdout.flush()
        threading.Event().wait(command.seconds)
    return 0
