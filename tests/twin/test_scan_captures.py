"""These tests scan difficult captures: a wide lens, somebody in the way. They take minutes of CPU."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
from test_scan import CAPTURE, copied, quiet, truth_and_found

from twin.scan import ScanSettings, scan
from twin.scan.sfm import Lens, SfmSettings
from twin.scan.train import TrainSettings

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif("TWINRL_SLOW_TESTS" not in os.environ, reason="minutes of CPU; set TWINRL_SLOW_TESTS=1 to run"),
]
QUICK = TrainSettings(steps=60, width=160)


def scanned(source, out, **settings):
    return scan(source, out, settings=ScanSettings(train=QUICK, **settings), on_progress=quiet)


def test_a_wide_lens_is_fitted_by_opencvs_model(tmp_path):
    """Photos are bent by a known lens; the cameras stand where they stood, and the views are straight again."""
    source = tmp_path / "photos"
    source.mkdir()
    shutil.copy(CAPTURE / "capture.toml", source)
    camera = json.loads((CAPTURE / "truth.json").read_text())["camera"]
    sizes = {name: camera[name] for name in ("fx", "fy", "cx", "cy")}
    bent = Lens(**sizes, distortion=(-0.12, 0.02, 0.001, -0.001))
    column, row = np.meshgrid(np.arange(camera["width"]) + 0.5, np.arange(camera["height"]) + 0.5)
    straight = bent.undistort(np.stack([column.ravel(), row.ravel()], 1)) - 0.5
    maps = straight.reshape(camera["height"], camera["width"], 2).astype(np.float32)
    for path in CAPTURE.glob("*.jpg"):
        image = cv2.remap(cv2.imread(str(path)), maps, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        cv2.imwrite(str(source / path.name), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    report = scanned(source, tmp_path / "scene", sfm=SfmSettings(camera="OPENCV"))
    truth, found = truth_and_found(report)
    assert report.registered == 24
    assert np.linalg.norm(truth[:, :3, 3] - found[:, :3, 3], axis=1).max() < 0.006
    corners = np.array([[20.0, 20], [460, 20], [20, 340], [460, 340]])
    fitted = Lens(**{name: report.lens[name] for name in sizes}, distortion=tuple(report.lens["distortion"]))
    assert np.abs(fitted.undistort(corners) - bent.undistort(corners)).max() < 3


def test_masks_keep_somebody_in_the_way_out_of_the_splats(tmp_path):
    """A magenta hand moves with the camera, as a person's would, with masks and without."""
    shares = {}
    for masked in (True, False):
        source = copied(tmp_path / f"photos-{masked}")
        shutil.copy(CAPTURE / "capture.toml", source)
        (source / "masks").mkdir()
        for path in sorted(source.glob("*.jpg")):
            photo, mask = cv2.imread(str(path)), np.full((360, 480), 255, np.uint8)
            cv2.circle(photo, (330, 290), 60, (255, 0, 255), -1)
            cv2.circle(mask, (330, 290), 64, 0, -1)
            cv2.imwrite(str(path), photo, [cv2.IMWRITE_JPEG_QUALITY, 95])
            if masked:
                cv2.imwrite(str(source / "masks" / f"{path.stem}.png"), mask)
        if not masked:
            (source / "masks").rmdir()
        report = scanned(source, tmp_path / f"scene-{masked}")
        side = cv2.imread(str(tmp_path / f"scene-{masked}" / "side.png")).astype(int)
        magenta = np.minimum(side[..., 0], side[..., 2]) - side[..., 1] > 40
        shares[masked] = float(magenta.mean())
        if masked:
            truth, found = truth_and_found(report)
            assert report.registered == 24
            assert np.linalg.norm(truth[:, :3, 3] - found[:, :3, 3], axis=1).max() < 0.004
            assert report.masked_percent > 5
            assert report.held_out_psnr_db > 24
    assert shares[True] < 0.002 < shares[False]
