"""These tests find scale and frame from typed points and a ChArUco board, on reconstructions of known truth."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scan_align import UNITS, error_after, in_sfm_units, workspace

from protos.errors import SceneError
from twin.scan.board import from_board
from twin.scan.capture import Board, KnownPoint, point_of, read_capture
from twin.scan.place import place_by_reference
from twin.scan.scale import from_points
from twin.scan.table import TableSettings, find_table

PLACES = ((-0.7, -0.2, 0.0), (-0.3, -0.15, 0.0), (-0.4, 0.25, 0.0))
CHARUCO = Board(
    kind="charuco",
    dictionary="DICT_4X4_50",
    marker_m=0.045,
    square_m=0.06,
    columns=5,
    rows=4,
    base_from_board=(-0.5, 0.1, 0.4),
)


@pytest.fixture(scope="module")
def table_scene():
    found = in_sfm_units(workspace())
    return found, find_table(found, TableSettings())


def typed(places, photos=("2.png",), noise_px=0.0, shrink=1.0):
    """Returns what a person types who sees `places` in the photos."""
    cameras = {view.name: view.camera for view in workspace().views}
    rng = np.random.default_rng(0)
    return [
        KnownPoint(
            photo=photo,
            pixel=tuple((cameras[photo].project(place)[:2] + noise_px * rng.normal(size=2)) / shrink),
            base_m=place,
        )
        for place in places
        for photo in photos
    ]


@pytest.mark.parametrize("shrink", [1.0, 0.5])
def test_three_points_on_the_table_in_one_photo_give_scale_and_frame(table_scene, shrink):
    found, table = table_scene
    scale = from_points(found, table, typed(PLACES, shrink=shrink), shrink)
    assert scale.metres_per_unit == pytest.approx(UNITS, rel=1e-3)
    assert error_after(found, scale, place_by_reference(scale, table)) < 0.002
    assert scale.residual_mm < 0.5
    assert scale.residual_px < 0.3


def test_points_off_the_table_are_triangulated(table_scene):
    found, table = table_scene
    raised = [(*place[:2], 0.1 + 0.1 * index) for index, place in enumerate(PLACES)]
    scale = from_points(found, table, typed(raised, ("1.png", "6.png")), 1.0)
    assert scale.metres_per_unit == pytest.approx(UNITS, rel=1e-6)
    assert error_after(found, scale, place_by_reference(scale, table)) < 0.001


def test_careless_clicks_show_in_the_residual(table_scene):
    found, table = table_scene
    places = [*PLACES, (-0.65, 0.2, 0.0), (-0.45, -0.3, 0.0)]
    scale = from_points(found, table, typed(places, noise_px=3), 1.0)
    assert 1 < scale.residual_px < 6
    assert 1 < scale.residual_mm < 20
    assert f"{scale.residual_mm:.1f} mm" in scale.provenance


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (typed(PLACES[:2]), "2 known places: at least 3"),
        (typed(PLACES[:2], ("1.png", "2.png", "3.png")), "2 known places: at least 3"),
        (typed([(-0.7, 0, 0), (-0.5, 0, 0), (-0.3, 0.001, 0)]), "lie on one line"),
        (typed([*PLACES[:2], (-0.4, 0.25, 0.1)]), "100 mm off the table and typed in 2.png only"),
        ([KnownPoint(photo="x.png", pixel=(1, 1), base_m=PLACES[0])], "x.png: choose a registered photo: 0.png"),
        ([KnownPoint(photo="0.png", pixel=(1, 900), base_m=PLACES[0])], "480 x 480 pixels"),
    ],
)
def test_points_that_fix_nothing_are_refused(table_scene, points, message):
    with pytest.raises(SceneError, match=message):
        from_points(*table_scene, points, 1.0)


def test_points_in_another_frame_are_refused(table_scene):
    """The table's z is typed as 0.3 m, which is not the robot's base frame."""
    found, table = table_scene
    points = [
        KnownPoint(photo=p.photo, pixel=p.pixel, base_m=(p.base_m[0], p.base_m[1], 0.3))
        for p in typed(PLACES, ("1.png", "6.png"))
    ]
    scale = from_points(found, table, points, 1.0)
    with pytest.raises(SceneError, match="table top at z = 0"):
        place_by_reference(scale, table)


numbers = st.floats(-5, 5, allow_nan=False).map(lambda x: round(x, 4))


@given(st.tuples(numbers, numbers), st.tuples(numbers, numbers, numbers))
@settings(max_examples=30, deadline=None)
def test_points_are_typed_as_they_are_shown(pixel, base):
    text = f"a:b.jpg:{pixel[0]},{pixel[1]}={base[0]},{base[1]},{base[2]}"
    assert point_of(text) == KnownPoint(photo="a:b.jpg", pixel=pixel, base_m=base)


@pytest.mark.parametrize("text", ["00.jpg", "00.jpg:1,2", "00.jpg:1=1,2,3", "00.jpg:1,2=1,2", "00.jpg:1,2=nan,2,3"])
def test_a_mistyped_point_is_explained(text):
    with pytest.raises(SceneError, match="PHOTO:COLUMN,ROW=X,Y,Z"):
        point_of(text)


def test_points_and_boards_are_read_from_the_capture_file(tmp_path):
    path = tmp_path / "capture.toml"
    path.write_text('[[points]]\nphoto = "0.png"\npixel = [1, 2]\nbase_m = [0.1, 0.2, 0]\n')
    assert read_capture(path) == (KnownPoint(photo="0.png", pixel=(1, 2), base_m=(0.1, 0.2, 0)),)
    path.write_text(path.read_text() + "[board]\n")
    with pytest.raises(SceneError, match="keep one of them"):
        read_capture(path)
    path.write_text(
        '[board]\nkind = "charuco"\ndictionary = "DICT_4X4_50"\nmarker_m = 0.045\nsquare_m = 0.06\ncolumns = 5\n'
        "rows = 4\nbase_from_board = [-0.5, 0.1, 0.4]\n"
    )
    assert read_capture(path) == CHARUCO
    path.write_text(path.read_text().replace("0.045", "0.07"))
    with pytest.raises(SceneError, match="markers smaller than squares"):
        read_capture(path)


def photograph(camera):
    """Renders the ChArUco board lying on a grey table."""
    scale = 20_000
    width, height = CHARUCO.columns * CHARUCO.square_m, CHARUCO.rows * CHARUCO.square_m
    print_ = CHARUCO.opencv_board().generateImage((round(width * scale / 20), round(height * scale / 20)))
    x, y, yaw = CHARUCO.base_from_board
    turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    page = np.array([[-width, height], [width, height], [width, -height], [-width, -height]]) / 2
    pixels = camera.project(np.c_[page @ turn.T + [x, y], np.zeros(4)])[:, :2].astype(np.float32) - 0.5
    rows, columns = print_.shape
    source = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32) - 0.5
    size = (camera.width, camera.height)
    warp = cv2.getPerspectiveTransform(source, pixels)
    image = cv2.warpPerspective(print_, warp, size, flags=cv2.INTER_AREA, borderValue=200)
    inside = cv2.warpPerspective(np.full_like(print_, 255), warp, size)
    soft = cv2.GaussianBlur(np.where(inside > 127, image, 200).astype(np.uint8), (0, 0), 0.7)
    return np.repeat(soft[..., None], 3, axis=2)


def test_a_charuco_board_gives_scale_and_frame():
    scene = workspace()
    views = tuple(type(v)(**(vars(v) | {"image": photograph(v.camera)})) for v in scene.views)
    found = in_sfm_units(type(scene)(**(vars(scene) | {"views": views})))
    table = find_table(found, TableSettings())
    scale = from_board(found, CHARUCO)
    assert scale.metres_per_unit == pytest.approx(UNITS, rel=0.002)
    assert error_after(found, scale, place_by_reference(scale, table)) < 0.003
    assert scale.residual_px < 0.3
    assert "ChArUco board" in scale.provenance


def test_the_charuco_corners_are_opencvs():
    """From above, with the page's top up, our corners and OpenCV's detections agree."""
    image = CHARUCO.opencv_board().generateImage((500, 400))
    corners, ids, _, _ = cv2.aruco.CharucoDetector(CHARUCO.opencv_board()).detectBoard(image)
    metres = (corners.reshape(-1, 2) + 0.5 - [250, 200]) / 100 * 0.06 * [1, -1]
    ours = np.array([CHARUCO.corners()[number, 0][:2] for number in ids.ravel()])
    assert np.abs(ours - metres).max() < 5e-4
