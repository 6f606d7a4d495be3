"""capture.toml: what a person writes down about a capture beyond its photos.

[board]                            a printed sheet of ArUco markers on the table; fixes scale, origin and axes
dictionary = "DICT_4X4_50"
marker_m = 0.06                    side of a marker's black square [m]
gap_m = 0.016                      white between two markers [m]
columns = 2
rows = 2
first_id = 0                       ids go left to right, then down the page
base_from_board = [-0.5, 0.43, -1.5708]   the page's centre x, y [m] and yaw [rad] in the robot's base frame
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from protos.errors import SceneError
from twin.rotations import F64

FILE = "capture.toml"


@dataclass(frozen=True, kw_only=True)
class Board:
    """A grid of ArUco markers. Its frame: origin in the middle, x to the page's right, y to its top, z out of it."""

    dictionary: str
    marker_m: float
    gap_m: float
    columns: int
    rows: int
    first_id: int
    base_from_board: tuple[float, float, float]
    """x, y [m], yaw [rad]."""

    def __post_init__(self) -> None:
        if self.dictionary not in dictionaries():
            raise SceneError(f"board.dictionary {self.dictionary!r}: choose one of {', '.join(dictionaries())}")
        for name, low in (("marker_m", 0.0), ("gap_m", 0.0), ("columns", 0), ("rows", 0)):
            if not getattr(self, name) > low:
                raise SceneError(f"board.{name} = {getattr(self, name)}: it must be greater than 0")

    def corners(self) -> dict[int, F64]:
        """Corners (4, 3) [m] of every marker in the board frame: top left, top right, bottom right, bottom left."""
        step, half = self.marker_m + self.gap_m, self.marker_m / 2
        square = np.array([[-half, half, 0], [half, half, 0], [half, -half, 0], [-half, -half, 0]])
        places = {}
        for index in range(self.columns * self.rows):
            row, column = divmod(index, self.columns)
            centre = np.array([(column - (self.columns - 1) / 2) * step, ((self.rows - 1) / 2 - row) * step, 0])
            places[self.first_id + index] = square + centre
        return places


def dictionaries() -> list[str]:
    """Names of OpenCV's marker dictionaries."""
    return sorted(name for name in dir(cv2.aruco) if name.startswith("DICT_"))


def read_board(path: Path) -> Board:
    """The board of a capture.toml. Raises `SceneError` naming the entry that is missing or wrong."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: not valid TOML: {error}") from error
    try:
        return _board(table)
    except KeyError as error:
        raise SceneError(f"{path}: entry {error.args[0]!r} is missing; see examples/capture/{FILE}") from error
    except (TypeError, ValueError) as error:
        raise SceneError(f"{path}: {error}") from error


def _board(table: dict[str, Any]) -> Board:
    board = table["board"]
    x, y, yaw = (float(value) for value in board["base_from_board"])
    return Board(
        dictionary=str(board["dictionary"]),
        marker_m=float(board["marker_m"]),
        gap_m=float(board["gap_m"]),
        columns=int(board["columns"]),
        rows=int(board["rows"]),
        first_id=int(board.get("first_id", 0)),
        base_from_board=(x, y, yaw),
    )
