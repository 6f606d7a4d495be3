"""This module is `twinrl view`: it shows a scene folder or a splat file in the browser."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from twinrl.viewer.serve import ViewSettings, serving


@dataclass(frozen=True, kw_only=True)
class View:
    """Show a scene with its robot, cameras, regions and objects in the browser until Ctrl-C."""

    scene: tyro.conf.Positional[Path]
    """Scene folder, or a .ply or .spz file of splats."""
    seconds: float | None = None
    """End by itself after so long; default: at Ctrl-C."""
    settings: Annotated[ViewSettings, tyro.conf.arg(name="")] = field(default_factory=ViewSettings)


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(View, prog="twinrl view", args=arguments)
    with serving(command.scene, command.settings) as address:
        sys.stdout.write(f"{address}: {command.scene}; Ctrl-C ends it\n")
        sys.stdout.flush()
        threading.Event().wait(command.seconds)
    return 0
