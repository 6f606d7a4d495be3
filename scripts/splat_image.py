"""This script draws an image of a splat file, upright and whole: `python scripts/splat_image.py FILE.ply IMAGE.png`."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from twin.camera import Camera, look_at
from twin.render import RASTERIZERS, get
from twin.splats import Splats, UpAxis, read_splats


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """Settings of the image: the file and the view."""

    file: tyro.conf.Positional[Path]
    """3DGS PLY, compressed PLY or SPZ."""
    image: tyro.conf.Positional[Path]
    """PNG to write."""
    up: UpAxis | None = None
    """The file's axis that points up; by default -y for PLY and y for SPZ."""
    azimuth_deg: float = 30.0
    """Direction around the object, from its -y side (the front of most objects) towards +x."""
    height_deg: float = 15.0
    """Elevation above the horizon."""
    distance: float = 3.2
    """Distance from the object's centre, in its radii."""
    px: int = 320
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    rasterizer: str = next(iter(RASTERIZERS))


def camera_of(splats: Splats, view: ViewSettings) -> Camera:
    """Returns a camera that sees all but the outermost splats."""
    low, high = np.quantile(splats.means, [0.01, 0.99], axis=0)
    centre, radius = (low + high) / 2, np.linalg.norm(high - low) / 2
    azimuth, height = math.radians(view.azimuth_deg), math.radians(view.height_deg)
    side = math.cos(height)
    direction = np.array([side * math.sin(azimuth), -side * math.cos(azimuth), math.sin(height)])
    fovy_deg = 2 * math.degrees(math.asin(1 / view.distance))
    return look_at(centre + view.distance * radius * direction, at=centre, fovy_deg=fovy_deg, px=view.px)


def main() -> None:
    view = tyro.cli(ViewSettings, description=__doc__)
    splats = read_splats(view.file, up=view.up)
    (image,) = get(view.rasterizer).render(splats, [camera_of(splats, view)])
    pixels = np.clip(image.over(view.background) * 255 + 0.5, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(view.image, optimize=True)


if __name__ == "__main__":
    main()
