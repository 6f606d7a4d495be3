"""This module is `twinrl align`: it finds a scene's base frame, and its scale if asked, from the robot in it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from twin.align import SceneAlignSettings, align_scene


@dataclass(frozen=True, kw_only=True)
class Align:
    """Find the base frame of a scene from the robot that stood in the photos."""

    scene: tyro.conf.Positional[Path]
    """Scene folder made by `twinrl scan`."""
    out: Path | None = None
    """Scene folder to write; default: the same."""
    settings: Annotated[SceneAlignSettings, tyro.conf.arg(name="")]


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(Align, prog="twinrl align", args=arguments)
    out = command.out or command.scene
    found = align_scene(command.scene, out, command.settings)
    scale = found.base_from_scan.scale
    sys.stdout.write(
        f"{out}: moved by {found.moved_mm:.1f} mm and {found.turned_deg:.2f} deg, scale {scale:.4f}; "
        f"outlines {found.before_px:.2f} -> {found.residual_px:.2f} px, {found.residual_mm:.1f} mm "
        f"over {len(found.views)} views; ±{found.uncertain_mm:.1f} mm of play; see {out / 'alignment.png'}\n"
    )
    return 0
