"""These tests run the page for known points: the scan reads what its script writes, and odd file names stay names."""

import json
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from protos.errors import SceneError
from twin.scan.capture import read_capture, write_points_page

NAMES = ["00.jpg", 'a "b" </script><script>alert(1)</script>.png'.replace("/", "\u2215"), "zürich 1.JPG"]
POINTS = [
    {"base": [-0.5, 0.2, 0], "seen": {NAMES[0]: [120.04, 340], NAMES[1]: [12, 34.56]}},
    {"base": [-0.3, 0.2, 1e-7], "seen": {NAMES[2]: [410, 355]}},
    {"base": [-0.4, -0.1, 0.05], "seen": {NAMES[0]: [250, 120]}},
]


@pytest.fixture
def page(tmp_path):
    for name in NAMES:
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    (tmp_path / "notes.txt").write_text("no photo")
    return write_points_page(tmp_path)


def run(page, expression):
    """Evaluates an expression in the page's own script."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed; it runs the page's script")
    (script,) = re.findall(r"<script>(.*?)</script>", page.read_text(encoding="utf-8"), re.DOTALL)
    program = f"{script}\nprocess.stdout.write(JSON.stringify({expression}))"
    done = subprocess.run(["node", "-e", program], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_page_knows_the_photos_by_their_names(page):
    assert run(page, "photos") == sorted(NAMES)


def test_what_is_clicked_is_what_the_scan_reads(page, tmp_path):
    (tmp_path / "capture.toml").write_text(run(page, f"toml({json.dumps(POINTS)})"), encoding="utf-8")
    found = read_capture(tmp_path / "capture.toml")
    assert [(one.photo, one.pixel, one.base_m) for one in found] == [
        (NAMES[0], (120.0, 340.0), (-0.5, 0.2, 0.0)),
        (NAMES[1], (12.0, 34.6), (-0.5, 0.2, 0.0)),
        (NAMES[2], (410.0, 355.0), (-0.3, 0.2, 1e-7)),
        (NAMES[0], (250.0, 120.0), (-0.4, -0.1, 0.05)),
    ]


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ("[]", "3 more points, clicked and with a place"),
        (json.dumps(POINTS), ""),
        (json.dumps(POINTS[:2]), "1 more point, clicked and with a place"),
        (json.dumps([*POINTS[:2], {"base": [0, 0, 0], "seen": {}}]), "1 more point, clicked and with a place"),
        (json.dumps(POINTS).replace("0.05", "NaN"), "point 3: where is it? x, y and z in metres are missing"),
    ],
)
def test_the_page_says_what_is_missing(page, points, said):
    assert run(page, f"problem({points})") == said


def test_mistakes_are_named(tmp_path):
    with pytest.raises(SceneError, match="no folder; points are clicked in photos"):
        write_points_page(tmp_path / "film.mp4")
    with pytest.raises(SceneError, match="holds no photos"):
        write_points_page(tmp_path)
    (tmp_path / "a.tif").touch()
    with pytest.raises(SceneError, match="browsers do not show TIFF"):
        write_points_page(tmp_path)
