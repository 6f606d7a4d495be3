"""This module reads capture.toml, a description of what photos cannot tell, and writes a page to make one.

capture.toml has one of two parts:

[board]                            a printed board on the table; fixes scale, origin and axes
kind = "aruco"                     a grid of ArUco markers (default), or "charuco": a chessboard with markers in it
dictionary = "DICT_4X4_50"
marker_m = 0.06                    side of a marker's black square [m]
gap_m = 0.016                      aruco: white between two markers [m]
square_m = 0.04                    charuco: side of a chess square [m]; `columns` and `rows` count squares
columns = 2
rows = 2
first_id = 0                       aruco: ids go left to right, then down the page
legacy = false                     charuco: printed by OpenCV before 4.6
base_from_board = [-0.5, 0.43, -1.5708]   the page's centre x, y [m] and yaw [rad] in the robot's base frame

[[points]]                         or three and more points whose place is known, each seen in one or more photos
photo = "00.jpg"
pixel = [120, 340]                 column and row in the photo's file, as any image viewer shows them
base_m = [-0.5, 0.2, 0.0]          where it is in the robot's base frame [m]; touch it with the tool to find out
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from protos.errors import SceneError
from protos.schema import F64
from twin.scan.frames import photo_paths
from twin.scene import read_toml

FILE = "capture.toml"
KINDS = ("aruco", "charuco")
Key = tuple[int, int]
"""Name of a corner: (marker, corner 0..3) of an ArUco board, (inner corner, 0) of a ChArUco board."""


TEMPLATE = Path(__file__).with_name("points.html")

PAGE = "points.html"

NOT_IN_BROWSERS = (".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class Board:
    """A printed board. Its frame: origin in the middle, x to the page's right, y to its top, z out of it."""

    kind: str = "aruco"
    dictionary: str
    marker_m: float
    gap_m: float = 0.0
    square_m: float = 0.0
    columns: int
    rows: int
    first_id: int = 0
    legacy: bool = False
    base_from_board: tuple[float, float, float]
    """x, y [m], yaw [rad]."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SceneError(f"board.kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.dictionary not in dictionaries():
            raise SceneError(f"board.dictionary {self.dictionary!r}: choose one of {', '.join(dictionaries())}")
        for name in ("marker_m", "gap_m" if self.kind == "aruco" else "square_m", "columns", "rows"):
            if not 0 < getattr(self, name) < 1000:
                raise SceneError(f"board.{name} = {getattr(self, name)}: it must be greater than 0 (and below 1000)")
        if not np.isfinite(self.base_from_board).all():
            raise SceneError(f"board.base_from_board = {self.base_from_board}: three finite numbers")
        known, first = len(self.opencv_dictionary().bytesList), self.first_id
        if not 0 <= first <= known - self._markers():
            raise SceneError(
                f"board of {self._markers()} markers from id {first}: {self.dictionary} has ids 0 to {known - 1}"
            )
        if self.kind == "charuco" and (self.marker_m >= self.square_m or min(self.columns, self.rows) < 3):
            raise SceneError(
                f"a ChArUco board of {self.columns} x {self.rows} squares of {self.square_m} m with markers of "
                f"{self.marker_m} m: at least 3 x 3 squares, markers smaller than squares"
            )

    def describe(self) -> str:
        """Returns one line about the board for people."""
        size = f"{self.columns} x {self.rows}"
        if self.kind == "charuco":
            return f"ChArUco board {self.dictionary}, {size} squares of {self.square_m * 1e3:g} mm"
        ids = f"ids {self.first_id} to {self.first_id + self.columns * self.rows - 1}"
        return f"ArUco board {self.dictionary}, {size} markers of {self.marker_m * 1e3:g} mm, {ids}"

    def corners(self) -> dict[Key, F64]:
        """Returns every corner (3,) [m] in the board frame; a marker's from top left to bottom left, clockwise."""
        if self.kind == "charuco":
            middle = np.array([self.columns, -self.rows, 0]) * self.square_m / 2
            found = self.opencv_board().getChessboardCorners().astype(float) * [1, -1, 1]
            return {(number, 0): place - middle for number, place in enumerate(found)}
        step, half = self.marker_m + self.gap_m, self.marker_m / 2
        square = np.array([[-half, half, 0], [half, half, 0], [half, -half, 0], [-half, -half, 0]])
        places: dict[Key, F64] = {}
        for index in range(self.columns * self.rows):
            row, column = divmod(index, self.columns)
            centre = np.array([(column - (self.columns - 1) / 2) * step, ((self.rows - 1) / 2 - row) * step, 0])
            places |= {(self.first_id + index, corner): place for corner, place in enumerate(square + centre)}
        return places

    def cells(self) -> int:
        """Returns the number of cells along a marker's side, its black border included."""
        return self.opencv_dictionary().markerSize + 2

    def opencv_dictionary(self) -> Any:
        """Returns OpenCV's dictionary of markers."""
        return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))

    def opencv_board(self) -> Any:
        """Returns OpenCV's ChArUco board."""
        size, dictionary = (self.columns, self.rows), self.opencv_dictionary()
        board = cv2.aruco.CharucoBoard(size, self.square_m, self.marker_m, dictionary)
        board.setLegacyPattern(self.legacy)
        return board

    def _markers(self) -> int:
        return self.columns * self.rows if self.kind == "aruco" else self.columns * self.rows // 2


@dataclass(frozen=True, kw_only=True)
class KnownPoint:
    """A point whose place is known, pointed at in one photo."""

    photo: str
    pixel: tuple[float, float]
    """Column and row in the photo's file."""
    base_m: tuple[float, float, float]
    """Place in the robot's base frame [m]."""


def dictionaries() -> list[str]:
    """Returns the names of OpenCV's marker dictionaries."""
    return sorted(name for name in dir(cv2.aruco) if name.startswith("DICT_"))


def read_capture(path: Path) -> Board | tuple[KnownPoint, ...]:
    """Reads the board or the points of a capture.toml. Raises `SceneError` naming a missing or wrong entry."""
    table = read_toml(path, unreadable=f"{path}: cannot be read; examples/capture/{FILE} shows what one looks like")
    if "board" in table and "points" in table:
        raise SceneError(f"{path}: [board] and [[points]] both fix the scale; keep one of them")
    try:
        return tuple(_point(one) for one in table["points"]) if "points" in table else _board(table["board"])
    except KeyError as error:
        raise SceneError(f"{path}: entry {error.args[0]!r} is missing; see examples/capture/{FILE}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise SceneError(f"{path}: {error}") from error


def point_of(text: str) -> KnownPoint:
    """Parses a point as typed: "00.jpg:120,340=-0.5,0.2,0"."""
    try:
        photo, rest = text.rsplit(":", 1)
        pixel, base = (tuple(float(part) for part in half.split(",")) for half in rest.split("="))
        return _point({"photo": photo, "pixel": pixel, "base_m": base})
    except ValueError:
        raise SceneError(
            f"--points {text!r}: PHOTO:COLUMN,ROW=X,Y,Z [m], for example 00.jpg:120,340=-0.5,0.2,0"
        ) from None


def _point(table: dict[str, Any]) -> KnownPoint:
    column, row = (float(value) for value in table["pixel"])
    x, y, z = (float(value) for value in table["base_m"])
    if not np.isfinite([column, row, x, y, z]).all():
        raise ValueError(f"point {table}: its numbers must be finite")
    return KnownPoint(photo=str(table["photo"]), pixel=(column, row), base_m=(x, y, z))


def _board(board: dict[str, Any]) -> Board:
    kind = str(board.get("kind", "aruco"))
    x, y, yaw = (float(value) for value in board["base_from_board"])
    return Board(
        kind=kind,
        dictionary=str(board["dictionary"]),
        marker_m=float(board["marker_m"]),
        gap_m=float(board["gap_m"]) if kind == "aruco" else 0.0,
        square_m=float(board["square_m"]) if kind == "charuco" else 0.0,
        columns=int(board["columns"]),
        rows=int(board["rows"]),
        first_id=int(board.get("first_id", 0)),
        legacy=bool(board.get("legacy", False)),
        base_from_board=(x, y, yaw),
    )


def write_points_page(photos: Path) -> Path:
    """Writes a page on which known points are clicked into a folder of photos; returns its path. Raises `SceneError`.

    The page is one file without a server: click, type x, y, z, save capture.toml. Nothing is sent anywhere.
    """
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
