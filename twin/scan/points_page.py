"""A page on which known points are clicked in photos; it writes the `[[points]]` of a capture.toml.

photos/ ─► photos/points.html ─► browser: click, type x, y, z ─► capture.toml ─► twinrl scan

The page is one file beside the photos: no server, nothing is sent anywhere.
"""

import json
from pathlib import Path

from protos.errors import SceneError
from twin.scan.frames import photo_paths

TEMPLATE = Path(__file__).with_name("points.html")
PAGE = "points.html"
NOT_IN_BROWSERS = (".tif", ".tiff")


def write_points_page(photos: Path) -> Path:
    """Writes the page into the folder of photos; returns its path. Raises `SceneError`."""
    if not photos.is_dir():
        raise SceneError(
            f"{photos}: no folder; points are clicked in photos, for a video use a printed board or --length"
        )
    names = [path.name for path in photo_paths(photos)]
    if unseen := [name for name in names if name.lower().endswith(NOT_IN_BROWSERS)]:
        raise SceneError(f"{photos / unseen[0]}: browsers do not show TIFF; export the photos as JPEG or PNG")
    listed = json.dumps(names).replace("<", "\\u003c")  # a name cannot end the script that it stands in
    page = photos / PAGE
    page.write_text(TEMPLATE.read_text(encoding="utf-8").replace("/*PHOTOS*/[]", listed), encoding="utf-8")
    return page
