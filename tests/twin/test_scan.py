"""These tests scan the bundled capture, measured against what its renderer knows."""

import json
import os
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from protos.errors import InputError, SceneError
from twin.scan import ScanSettings, ScanStep, scan
from twin.scan.frames import FrameSettings, collect
from twin.scan.scale import similarity
from twin.scan.sfm import SfmSettings, reconstruct
from twin.scan.train import TrainSettings
from twin.scene import Scene

ROOT = Path(__file__).parents[2]
CAPTURE = ROOT / "examples" / "capture"
SHARED = Path(os.environ.get("TWINRL_SHARED_DATA", ROOT.parent / "shared" / "data"))


def quiet(step, share):
    assert 0 <= share <= 1, step


def copied(folder, every=1):
    folder.mkdir()
    for path in sorted(CAPTURE.glob("*.jpg"))[::every]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="session")
def scanned(tmp_path_factory):
    """Scans every second photo and trains briefly at a low resolution: (report, scene folder, progress told)."""
    folder = tmp_path_factory.mktemp("scan")
    source = copied(folder / "photos", every=2)
    shutil.copy(CAPTURE / "capture.toml", source)
    told = []
    settings = ScanSettings(name="bench", train=TrainSettings(steps=60, width=160))
    report = scan(source, folder / "scene", settings=settings, on_progress=lambda *progress: told.append(progress))
    return report, folder / "scene", told


def truth_and_found(report):
    truth = json.loads((CAPTURE / "truth.json").read_text())["base_from_camera"]
    names = list(report.cameras)
    return (np.array([poses[name] for name in names]) for poses in (truth, report.cameras))


def test_every_photo_of_the_bundled_capture_registers(scanned):
    report, _, _ = scanned
    assert (report.registered, report.photos) == (12, 12)
    assert report.reprojection_px < 0.6


def test_scale_is_right_within_half_a_percent(scanned):
    truth, found = truth_and_found(scanned[0])
    scale, _, _ = similarity(found[:, :3, 3], truth[:, :3, 3])
    assert abs(scale - 1) < 0.005
    assert scanned[0].scale_spread_percent < 1.5


def test_cameras_stand_where_they_stood(scanned):
    truth, found = truth_and_found(scanned[0])
    assert np.linalg.norm(truth[:, :3, 3] - found[:, :3, 3], axis=1).max() < 0.004
    cosine = (np.einsum("nij,nij->n", truth[:, :3, :3], found[:, :3, :3]) - 1) / 2
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 0.5


def test_scene_shows_the_table_at_height_zero(scanned):
    report, folder, _ = scanned
    scene = Scene.load(folder)
    assert scene.name == "bench"
    assert "ArUco board" in scene.scale_provenance
    x, y, z = scene.static.means.T
    work = (np.abs(x + 0.5) < 0.2) & (np.abs(y) < 0.25) & (scene.static.opacities > 0.3)
    assert work.sum() > 500
    assert np.abs(np.median(z[work])) < 0.004
    assert np.percentile(np.abs(z[work]), 90) < 0.02
    assert report.splats == len(scene.static) <= 30_000


def test_held_out_views_are_rendered_well(scanned):
    assert scanned[0].held_out
    assert scanned[0].held_out_psnr_db > 24


def test_report_is_complete_and_self_contained(scanned):
    report, folder, _ = scanned
    page = (folder / "report.html").read_text()
    assert "12 of 12" in page and "ArUco" in page
    assert page.count("data:image/jpeg;base64,") == 1 + 2 * len(report.held_out)
    assert "http" not in page
    saved = json.loads((folder / "report.json").read_text())
    assert saved["held_out_psnr_db"] == report.held_out_psnr_db
    assert list(saved["seconds"]) == [step.label for step in ScanStep]


def test_progress_names_every_step_and_never_goes_back(scanned):
    _, _, told = scanned
    assert list(dict.fromkeys(step for step, _ in told)) == list(ScanStep)
    done = [step.total(share) for step, share in told]
    assert done == sorted(done) and done[0] == 0 and done[-1] < 1


def test_shares_of_all_steps_make_one_scan():
    steps = list(ScanStep)
    for step, later in pairwise(steps):
        assert step.total(0) == step.value < step.total(0.5) < step.total(1) == later.value
    assert steps[-1].total(1) == 1


def test_a_scan_without_scale_is_refused_before_any_work(tmp_path):
    source = copied(tmp_path / "photos")
    with pytest.raises(SceneError, match=r"capture\.toml.*--length 0\.30 --photo"):
        scan(source, tmp_path / "scene", settings=ScanSettings(), on_progress=pytest.fail)
    assert not (tmp_path / "scene").exists()


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir()], ids=["missing", "empty"])
def test_missing_and_empty_sources_say_what_to_give(tmp_path, make):
    make(tmp_path / "photos")
    with pytest.raises(SceneError, match="folder of photos or a video"):
        scan(tmp_path / "photos", tmp_path / "scene", settings=ScanSettings(), on_progress=quiet)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ScanSettings(length=0.3), "--photo"),
        (ScanSettings(length=0.3, photo="00.jpg", start="12"), "--from '12'"),
        (ScanSettings(length=0.3, photo="00.jpg", start="1,2", end="a,b"), "--to 'a,b'"),
    ],
)
def test_half_a_length_is_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        scan(copied(tmp_path / "photos"), tmp_path / "scene", settings=settings, on_progress=quiet)


def test_images_that_do_not_overlap_are_counted(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(8):
        noise = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(tmp_path / f"{index}.png")
    frames = collect(tmp_path, tmp_path / "work", FrameSettings())
    with pytest.raises(SceneError, match=r"only 0 of 8 photos fit together.*overlap"):
        reconstruct(frames, tmp_path / "sfm", SfmSettings(), quiet)


@pytest.mark.timeout(600)
@pytest.mark.skipif("TWINRL_SLOW_TESTS" not in os.environ, reason="a minute of CPU; set TWINRL_SLOW_TESTS=1 to run")
def test_the_bundled_capture_reaches_what_the_documentation_says(tmp_path):
    report = scan(CAPTURE, tmp_path / "scene", settings=ScanSettings(), on_progress=quiet)
    truth, found = truth_and_found(report)
    assert report.held_out_psnr_db >= 30
    assert np.linalg.norm(truth[:, :3, 3] - found[:, :3, 3], axis=1).max() <= 0.001
    assert abs(similarity(found[:, :3, 3], truth[:, :3, 3])[0] - 1) <= 0.005


@pytest.mark.timeout(600)
@pytest.mark.skipif(not (SHARED / "kitchen").is_dir(), reason="needs the kitchen photos in TWINRL_SHARED_DATA")
@pytest.mark.skipif("TWINRL_SLOW_TESTS" not in os.environ, reason="90 s of CPU; set TWINRL_SLOW_TESTS=1 to run")
def test_real_photos_taken_far_apart_register(tmp_path):
    frames = collect(SHARED / "kitchen" / "images", tmp_path / "frames", FrameSettings())
    found = reconstruct(frames, tmp_path / "sfm", SfmSettings(), quiet)
    assert len(found.views) >= 24
    assert found.reprojection_px < 1
