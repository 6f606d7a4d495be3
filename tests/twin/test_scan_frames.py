"""These tests turn photos and videos into upright photos of one size."""

import cv2
import numpy as np
import pytest

from protos.errors import SceneError
from twin.scan.frames import FrameSettings, collect, sharpness


def textured(seed=0, height=120, width=160):
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 255, (height // 6, width // 6, 3), dtype=np.uint8), (width, height))


def photos(folder, count=8, **shape):
    folder.mkdir(exist_ok=True)
    for index in range(count):
        cv2.imwrite(str(folder / f"{index:02d}.png"), textured(index, **shape))
    return folder


def video(path, images):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (160, 120))
    assert writer.isOpened()
    for image in images:
        writer.write(image)
    writer.release()
    return path


def test_photos_keep_their_names_and_are_shrunk(tmp_path):
    source = photos(tmp_path / "photos", height=240, width=320)
    (source / "notes.txt").write_text("not a photo")
    frames = collect(source, tmp_path / "work", FrameSettings(longest_side_px=160))
    assert frames.names == tuple(f"{i:02d}.png" for i in range(8))
    assert (frames.width, frames.height, frames.shrink) == (160, 120, 0.5)
    assert frames.read("03.png").shape == (120, 160, 3)


def test_photos_are_never_enlarged(tmp_path):
    frames = collect(photos(tmp_path / "photos"), tmp_path / "work", FrameSettings())
    assert (frames.width, frames.shrink) == (160, 1.0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: [p.unlink() for p in sorted(f.iterdir())[3:]], "3 usable photos; a scan needs at least 8"),
        (lambda f: [p.unlink() for p in f.iterdir()], "holds no photos"),
        (lambda f: (f / "04.png").write_bytes(b"damaged"), "04.png cannot be read"),
        (lambda f: cv2.imwrite(str(f / "05.png"), textured(5, 160, 120)), "05.png has 120 x 160 px.*one orientation"),
    ],
)
def test_unusable_folders_say_what_to_do(tmp_path, spoil, message):
    source = photos(tmp_path / "photos")
    spoil(source)
    with pytest.raises(SceneError, match=message):
        collect(source, tmp_path / "work", FrameSettings())


def test_a_file_that_is_no_video_is_refused(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"\0" * 64)
    with pytest.raises(SceneError, match="cannot be read as a video"):
        collect(path, tmp_path / "work", FrameSettings())


def test_blurred_and_repeated_video_frames_are_left_out(tmp_path):
    wide = textured(height=120, width=600)
    walk = [np.ascontiguousarray(wide[:, 12 * i : 12 * i + 160]) for i in range(16)]
    walk[5] = cv2.GaussianBlur(walk[5], (0, 0), 9)
    images = [walk[0]] * 4 + walk
    frames = collect(video(tmp_path / "clip.avi", images), tmp_path / "work", FrameSettings(moved_px=20))
    assert len(frames.names) == 15
    assert [one.reason.split()[0] for one in frames.dropped].count("blurred") == 1
    assert [one.name for one in frames.dropped] == [f"frame-{i:05d}.jpg" for i in (1, 2, 3, 4, 9)]
    softest = min(sharpness(cv2.cvtColor(frames.read(name), cv2.COLOR_RGB2GRAY)) for name in frames.names)
    assert softest > 2 * sharpness(cv2.cvtColor(walk[5], cv2.COLOR_BGR2GRAY))


def test_a_long_video_is_thinned(tmp_path):
    wide = textured(height=120, width=600)
    images = [np.ascontiguousarray(wide[:, 4 * i : 4 * i + 160]) for i in range(100)]
    frames = collect(video(tmp_path / "clip.avi", images), tmp_path / "work", FrameSettings(most=10))
    assert len(frames.names) == 10
    assert (frames.thinned, frames.dropped) == (90, ())


def test_blurred_and_repeated_photos_are_left_out_by_name(tmp_path):
    source = photos(tmp_path / "photos", count=12)
    for name, image in (("02.png", cv2.GaussianBlur(textured(2), (0, 0), 5)), ("07.png", textured(3))):
        cv2.imwrite(str(source / name), image)
    nudged = np.roll(textured(9), 1, axis=1)
    cv2.imwrite(str(source / "09b.png"), nudged)
    frames = collect(source, tmp_path / "work", FrameSettings(moved_px=20))
    found = {one.name: one.reason for one in frames.dropped}
    assert set(found) == {"02.png", "07.png", "09b.png"}
    assert "blurred" in found["02.png"]
    assert found["07.png"] == "shows what 03.png shows"
    assert found["09b.png"] == "shows what 09.png shows"
    assert not {"02.png", "07.png", "09b.png"} & {path.name for path in frames.folder.iterdir()}


def masks(folder, names=("03.png",), height=120, width=160):
    folder.mkdir()
    mask = np.full((height, width), 255, np.uint8)
    mask[:, : width // 2] = 0
    for name in names:
        cv2.imwrite(str(folder / name), mask)
    return folder


@pytest.mark.parametrize("name", ["03.png", "03.png.png"], ids=["stem", "whole name"])
def test_masks_beside_the_photos_are_found_and_shrunk(tmp_path, name):
    source = photos(tmp_path / "photos", height=240, width=320)
    masks(source / "masks", (name,), 240, 320)
    frames = collect(source, tmp_path / "work", FrameSettings(longest_side_px=160))
    assert np.array_equal(frames.valid("03.png"), np.tile(np.arange(160) >= 80, (120, 1)))
    assert frames.valid("04.png").all()
    assert len(frames.names) == 8


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: masks(f, height=100), r"03.png has 160 x 100 px, its photo 03.png 160 x 120; .* size of its photo"),
        (lambda f: masks(f, ("99.png",)), "holds no mask of any photo; name it like the photo: 00.png"),
        (lambda f: (masks(f) / "03.png").write_bytes(b"damaged"), "03.png cannot be read"),
        (lambda f: None, "no such folder"),
    ],
)
def test_unusable_masks_say_what_to_do(tmp_path, spoil, message):
    spoil(tmp_path / "people")
    with pytest.raises(SceneError, match=message):
        collect(photos(tmp_path / "photos"), tmp_path / "work", FrameSettings(masks=tmp_path / "people"))


def test_masks_do_not_go_with_a_video(tmp_path):
    path = video(tmp_path / "clip.avi", [textured(i) for i in range(10)])
    with pytest.raises(SceneError, match="masks go with photos"):
        collect(path, tmp_path / "work", FrameSettings(masks=masks(tmp_path / "masks")))
