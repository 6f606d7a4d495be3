"""This module is `twinrl cut`: it cuts an object out of a scanned scene and makes it a movable body."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from twin.objects import FOLDER, CutSettings, cut


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Cut an object out of a scene: SCENE/objects/NAME is written, and the table closed where it stood."""

    scene: tyro.conf.Positional[Path]
    """Scene folder made by `twinrl scan`; it is changed."""
    name: str
    """Name of the object: letters, digits, underscores."""
    settings: Annotated[CutSettings, tyro.conf.arg(name="")] = field(default_factory=CutSettings)


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(Cut, prog="twinrl cut", args=arguments)
    found = cut(command.scene, command.name, command.settings)
    size = " x ".join(f"{1e3 * length:.0f}" for length in found.size_m)
    x, y, _, _ = found.stood_at
    sys.stdout.write(
        f"{command.scene / FOLDER / found.name}: {len(found.splats)} splats, {size} mm, {1e3 * found.mass_kg:.0f} g, "
        f"{len(found.parts)} convex parts; it stood at x {x:.3f}, y {y:.3f} m\n"
    )
    return 0
