"""This module is `twinrl points`: it writes a page on which known points of a capture are clicked."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from twin.scan import write_points_page


@dataclass(frozen=True, kw_only=True)
class Points:
    """Write PHOTOS/points.html: click points whose place you know, save capture.toml, then scan."""

    photos: tyro.conf.Positional[Path]
    """Folder of photos."""


def main(arguments: Sequence[str]) -> int:
    page = write_points_page(tyro.cli(Points, prog="twinrl points", args=arguments).photos)
    sys.stdout.write(f"open {page.resolve().as_uri()} in a browser; it saves capture.toml\n")
    return 0
