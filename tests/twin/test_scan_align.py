"""These tests find table, scale and placement of made-up reconstructions whose truth is known."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.errors import SceneError
from twin.camera import look_at
from twin.rotations import matrix_from_vector
from twin.scan.board import from_board
from twin.scan.capture import Board, read_capture
from twin.scan.place import PlaceSettings, place_by_reference, place_by_views
from twin.scan.scale import Length, Scale, from_length, similarity
from twin.scan.sfm import Lens, Reconstruction, View
from twin.scan.table import TableSettings, find_table

BOARD = Board(
    dictionary="DICT_4X4_50",
    marker_m=0.06,
    gap_m=0.02,
    columns=2,
    rows=2,
    first_id=3,
    base_from_board=(-0.5, 0.1, 0.4),
)
UNITS = 0.13  # metres per SfM unit
KNOWN = Scale(metres_per_unit=UNITS, provenance="given")
numbers = st.floats(-2, 2, allow_nan=False)
vectors = st.tuples(numbers, numbers, numbers).map(np.array)


def workspace(count=9, wall=0, turn_deg=50, aim=(-0.5, 0, 0)):
    """Makes a table seen from an arc of ±turn_deg, true to scale in the base frame; `wall` points stand behind."""
    rng = np.random.default_rng(1)
    points = np.c_[rng.uniform(-0.9, 0.2, 400), rng.uniform(-0.6, 0.6, 400), rng.normal(0, 5e-4, 400)]
    upright = np.c_[rng.normal(0.6, 5e-4, wall), rng.uniform(-1, 1, wall), rng.uniform(0, 1, wall)]
    points = np.concatenate([points, upright])
    views = []
    for index, angle in enumerate(np.radians(np.linspace(-turn_deg, turn_deg, count))):
        eye = (-0.5 - 0.7 * math.cos(angle), 0.7 * math.sin(angle), 0.55)
        camera = look_at(eye, at=aim, fovy_deg=60, px=480)
        image = photograph(camera)
        valid = np.ones(image.shape[:2], bool)
        name = f"{index}.png"
        views.append(View(name=name, camera=camera, image=image, valid=valid, seen=np.arange(len(points))))
    return Reconstruction(
        views=tuple(views),
        photos=count,
        points=points,
        colours=np.zeros((len(points), 3), np.uint8),
        reprojection_px=0.3,
        lens=Lens(fx=views[0].camera.fx, fy=views[0].camera.fy, cx=240, cy=240),
    )


def photograph(camera):
    """Renders the board lying on a grey table."""
    x, y, yaw = BOARD.base_from_board
    turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)
    image = np.full((camera.height, camera.width), 200, np.uint8)
    layout = BOARD.corners()
    for marker in range(BOARD.first_id, BOARD.first_id + 4):
        corners = np.array([layout[marker, corner] for corner in range(4)])
        on_table = np.c_[corners[:, :2] @ turn.T + [x, y], np.zeros(4)]
        pixels = camera.project(on_table)[:, :2].astype(np.float32) - 0.5
        print_ = cv2.aruco.generateImageMarker(dictionary, marker, 120)
        source = np.array([[0, 0], [120, 0], [120, 120], [0, 120]], np.float32) - 0.5
        warp = cv2.getPerspectiveTransform(source, pixels)
        size = (camera.width, camera.height)
        shown = cv2.warpPerspective(print_, warp, size, flags=cv2.INTER_AREA, borderValue=200)
        inside = cv2.warpPerspective(np.full_like(print_, 255), warp, size)
        image = np.where(inside > 127, shown, image)
    return np.repeat(cv2.GaussianBlur(image, (0, 0), 0.7)[..., None], 3, axis=2)


def in_sfm_units(scene):
    """Returns the scene as structure from motion would give it: turned, moved, of arbitrary size."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = matrix_from_vector([0.4, -1.1, 0.6]), (0.3, -2.0, 1.0)
    return scene.transformed(pose, 1 / UNITS)


def error_after(found, scale, placement):
    """Returns the largest error [m] of the camera positions against the base frame they were made in."""
    placed = found.transformed(placement.base_from_scaled, scale.metres_per_unit)
    truth = [view.camera.base_from_camera for view in workspace().views]
    return max(
        float(np.linalg.norm(v.camera.base_from_camera[:3, 3] - t[:3, 3]))
        for v, t in zip(placed.views, truth, strict=True)
    )


def test_board_gives_scale_and_the_robots_frame():
    found = in_sfm_units(workspace())
    table = find_table(found, TableSettings())
    scale = from_board(found, BOARD)
    assert scale.metres_per_unit == pytest.approx(UNITS, rel=0.001)
    assert error_after(found, scale, place_by_reference(scale, table)) < 0.002
    assert "seen in 9 views" in scale.provenance


def test_a_board_that_is_not_there_is_reported():
    other = Board(**(vars(BOARD) | {"first_id": 30}))
    with pytest.raises(SceneError, match=r"ids 30 to 33.*was not found in 3 views"):
        from_board(in_sfm_units(workspace()), other)


def test_a_board_that_does_not_lie_on_the_table_is_refused():
    found = in_sfm_units(workspace())
    scale = from_board(found, BOARD)
    table = find_table(found, TableSettings())
    raised = type(table)(**(vars(table) | {"offset": table.offset - 0.05 / UNITS}))
    with pytest.raises(SceneError, match="lie 50 mm above the table"):
        place_by_reference(scale, raised)


def test_length_gives_scale():
    scene = workspace()
    found = in_sfm_units(scene)
    view = scene.views[2]
    start, end = view.camera.project([(-0.6, -0.1, 0), (-0.3, 0.1, 0)])[:, :2]
    length = Length(metres=math.hypot(0.3, 0.2), photo="2.png", start=tuple(2 * start), end=tuple(2 * end))
    scale = from_length(found, find_table(found, TableSettings()), length, shrink=0.5)
    assert scale.metres_per_unit == pytest.approx(UNITS, rel=0.003)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metres": 0.0}, "greater than 0"),
        ({"photo": "x.png"}, "choose a registered photo: 0.png, 1.png"),
        ({"end": (900.0, 3.0)}, "480 x 480 pixels"),
        ({"end": (240.0, 300.0)}, "apart from each other"),
    ],
)
def test_impossible_lengths_are_refused(change, message):
    found = in_sfm_units(workspace())
    length = Length(**({"metres": 0.3, "photo": "0.png", "start": (240.0, 300.0), "end": (300.0, 300.0)} | change))
    with pytest.raises(SceneError, match=message):
        from_length(found, find_table(found, TableSettings()), length, shrink=1.0)


def test_without_a_board_the_robot_faces_the_photographer():
    found = in_sfm_units(workspace())
    table = find_table(found, TableSettings())
    assert error_after(found, KNOWN, place_by_views(found, KNOWN, table, PlaceSettings(), 1.0)) < 0.01


def test_photos_from_all_around_put_the_side_camera_near_a_photo():
    found = in_sfm_units(workspace(turn_deg=160))
    table = find_table(found, TableSettings())
    placement = place_by_views(found, KNOWN, table, PlaceSettings(), 1.0)
    placed = found.transformed(placement.base_from_scaled, UNITS)
    nearest = min(np.linalg.norm(v.camera.base_from_camera[:3, 3] - (-1.02, 0, 0.46)) for v in placed.views)
    assert nearest == pytest.approx(math.hypot(0.7 - 0.52, 0.55 - 0.46), abs=0.01)
    assert "all around" in placement.note


def test_photos_that_look_past_the_table_put_the_workspace_amid_it():
    found = in_sfm_units(workspace(aim=(2.5, 0, 0.6)))
    table = find_table(found, TableSettings())
    placement = place_by_views(found, KNOWN, table, PlaceSettings(), 1.0)
    placed = found.transformed(placement.base_from_scaled, UNITS)
    assert np.median(placed.points, axis=0) == pytest.approx((-0.5, 0, 0), abs=0.02)
    assert "look past the table" in placement.note


def test_the_workspace_can_be_pointed_at():
    scene = workspace()
    found = in_sfm_units(scene)
    table = find_table(found, TableSettings())
    pixel = tuple(scene.views[4].camera.project((-0.4, 0.1, 0))[:2])
    chosen = PlaceSettings(workspace_photo="4.png", workspace_pixel=pixel, yaw_deg=90)
    placed = found.transformed(place_by_views(found, KNOWN, table, chosen, 1.0).base_from_scaled, UNITS)
    eye = placed.views[4].camera.base_from_camera[:3, 3]
    # The old camera stood at (-1.2, 0): (-0.8, -0.1) from the new centre, seen from a base turned by 90 deg.
    assert eye == pytest.approx((-0.5 - 0.1, 0.8, 0.55), abs=0.01)


def test_an_implausible_length_is_noticed():
    found = in_sfm_units(workspace())
    table = find_table(found, TableSettings())
    wrong = Scale(metres_per_unit=1000 * UNITS, provenance="a length in millimetres")
    with pytest.raises(SceneError, match="--length is in metres"):
        place_by_views(found, wrong, table, PlaceSettings(), 1.0)


def test_a_wall_with_more_points_is_not_the_table():
    found = in_sfm_units(workspace(wall=1500))
    placed = find_table(found, TableSettings())
    up = in_sfm_units(workspace()).views[0].camera.base_from_camera
    assert placed.support == pytest.approx(400, abs=20)
    assert placed.height(up[:3, 3]) == pytest.approx(0.55 / UNITS, rel=0.01)


def test_no_table_is_reported():
    scene = workspace()
    rng = np.random.default_rng(0)
    cloud = rng.uniform((-1.5, -1, -1), (0.5, 1, 1), (60, 3))
    views = tuple(replace(v, seen=np.arange(60)) for v in scene.views)
    empty = Reconstruction(**(vars(scene) | {"points": cloud, "views": views}))
    with pytest.raises(SceneError, match="no table found"):
        find_table(empty, TableSettings())


@given(vectors, vectors, st.floats(0.05, 20))
@settings(max_examples=40, deadline=None)
def test_similarity_recovers_what_was_applied(turn, shift, scale):
    points = np.random.default_rng(0).normal(size=(7, 3))
    rotation = matrix_from_vector(turn)
    found = similarity(points, scale * points @ rotation.T + shift)
    assert found[0] == pytest.approx(scale, rel=1e-6)
    assert np.allclose(found[1], rotation, atol=1e-6)
    assert np.allclose(found[2], shift, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"DICT_4X4_50"', '"DICT_9X9"', "DICT_9X9.*choose one of DICT_4X4"),
        ("marker_m = 0.06", "marker_m = -1", "marker_m = -1.0: it must be greater than 0"),
        ("marker_m = 0.06", "", "entry 'marker_m' is missing"),
        ("columns = 2", "columns = [", "not valid TOML"),
        ("columns = 2", 'columns = "two"', "invalid literal"),
    ],
)
def test_a_wrong_capture_file_is_explained(tmp_path, old, new, message):
    text = """[board]
dictionary = "DICT_4X4_50"
marker_m = 0.06
gap_m = 0.02
columns = 2
rows = 2
base_from_board = [0, 0, 0]
"""
    path = tmp_path / "capture.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(SceneError, match=message):
        read_capture(path)
