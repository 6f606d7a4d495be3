"""This script renders the bundled capture: photos of a table as a person with a phone would take them.

    textures (NumPy) ─► room, table, books, boxes, mug ─► ray caster (numba, 9 rays a pixel) ─► examples/capture/*.jpg
                                                                                           └─► capture.toml, truth.json

Everything is in the robot's base frame [m]: table top z = 0, the robot (absent) at the origin, its work box at x ≈ -0.5
kept clear. A printed board of four ArUco markers lies beside the work box and gives the scan its metric scale.
`truth.json` holds what a scan has to find: camera poses, intrinsics, marker corners.

Run from the repository root: `python -m scripts.make_capture`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numba
import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image

from protos.schema import F32, F64
from scripts.capture_textures import cardboard, wall, wood

WIDTH, HEIGHT, FOCAL = 480, 360, 384.0
SUPERSAMPLES = 3  # per axis
ROOM = ((-2.2, -1.6, -0.75), (0.75, 1.6, 1.5))  # low and high corner [m]
TABLE = ((-1.1, -0.8, -0.04), (0.4, 0.8, 0.0))
TABLE_PX_PER_M = 1000
LIGHT, LIGHT_RADIUS = np.array([-0.9, 0.5, 1.45]), 0.3  # a ceiling lamp and its half side [m]

DICTIONARY, MARKER_M, GAP_M, MARGIN_M = "DICT_4X4_50", 0.06, 0.016, 0.02
BOARD_XY_YAW = (-0.5, 0.43, -math.pi / 2)  # base_from_board: the page's top points away from the photographer


@dataclass(frozen=True, kw_only=True)
class Solid:
    """An upright box, or a cylinder (`round`), turned by `yaw` about z; one texture on all its faces."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float = 0.0
    round: bool = False
    colour: tuple[float, float, float] = (0.7, 0.6, 0.5)


OBJECTS = (
    Solid(centre=(0.24, 0.52, 0.03), half=(0.10, 0.14, 0.03), yaw=0.3, colour=(0.62, 0.22, 0.20)),
    Solid(centre=(0.25, 0.50, 0.08), half=(0.085, 0.12, 0.02), yaw=-0.2, colour=(0.20, 0.36, 0.58)),
    Solid(centre=(0.25, -0.50, 0.07), half=(0.08, 0.10, 0.07), yaw=0.7, colour=(0.72, 0.55, 0.34)),
    Solid(centre=(-0.06, -0.60, 0.05), half=(0.06, 0.08, 0.05), yaw=-0.4, colour=(0.28, 0.50, 0.34)),
    Solid(centre=(-0.66, -0.50, 0.05), half=(0.042, 0.042, 0.05), round=True, colour=(0.80, 0.78, 0.72)),
    Solid(centre=(-0.40, -0.62, 0.02), half=(0.09, 0.12, 0.02), yaw=1.2, colour=(0.75, 0.62, 0.20)),
    Solid(centre=(-0.08, 0.62, 0.06), half=(0.05, 0.05, 0.06), round=True, colour=(0.35, 0.25, 0.50)),
    Solid(centre=(-0.86, 0.62, 0.035), half=(0.07, 0.10, 0.035), yaw=0.5, colour=(0.30, 0.55, 0.60)),
)


def board_frame() -> F64:
    """Returns base_from_board (4, 4): origin at the page's centre, x to the right of the page, y to its top, z up."""
    x, y, yaw = BOARD_XY_YAW
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def marker_corners() -> dict[int, F64]:
    """Returns the corners (4, 3) of each marker in the base frame: top left, top right, bottom right, bottom left."""
    step, half = MARKER_M + GAP_M, MARKER_M / 2
    square = np.array([[-half, half], [half, half], [half, -half], [-half, -half]])
    corners = {}
    for marker in range(4):
        row, column = divmod(marker, 2)
        page = square + np.array([(column - 0.5) * step, (0.5 - row) * step])
        corners[marker] = (board_frame() @ np.c_[page, np.zeros(4), np.ones(4)].T).T[:, :3]
    return corners


def print_board(texture: F32) -> None:
    """Prints the board into the table's texture; rows run along +x, columns along +y of the base frame."""

    def pixel(point: F64) -> F64:  # borders of texels, not centres: an edge of the print falls between two texels
        return (point[..., 1::-1] - np.array([TABLE[0][1], TABLE[0][0]])) * TABLE_PX_PER_M

    half = MARKER_M + GAP_M / 2 + MARGIN_M
    sheet = np.array([[-half, -half, 0, 1], [half, half, 0, 1]])
    (u0, v0), (u1, v1) = np.sort(np.rint(pixel((board_frame() @ sheet.T).T)).astype(int), axis=0)
    texture[v0:v1, u0:u1] = 0.9
    dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, DICTIONARY))
    side = round(MARKER_M * TABLE_PX_PER_M)
    for marker, corners in marker_corners().items():
        image = cv2.aruco.generateImageMarker(dictionary, marker, side).astype(np.float32) / 255
        # The texture's rows run along +x (the page's top) and columns along +y (the page's left): half a turn.
        u, v = np.rint(pixel(corners).min(axis=0)).astype(int)
        texture[v : v + side, u : u + side] = (0.04 + 0.86 * np.rot90(image, 2))[..., None]


@numba.njit(cache=True, fastmath=True)
def _hit_box(o: F64, d: F64, low: F64, high: F64, inside: bool) -> tuple[float, int]:
    """Returns the distance along the ray to the box and the axis of the face it meets; inf when it passes by."""
    near, far, near_axis, far_axis = -1e30, 1e30, 0, 0
    for k in range(3):
        inverse = 1.0 / d[k] if abs(d[k]) > 1e-12 else 1e12
        a, b = (low[k] - o[k]) * inverse, (high[k] - o[k]) * inverse
        a, b = min(a, b), max(a, b)
        if a > near:
            near, near_axis = a, k
        if b < far:
            far, far_axis = b, k
    if inside:
        return far, far_axis
    return (near, near_axis) if near <= far and near > 1e-6 else (np.inf, 0)


@numba.njit(cache=True, fastmath=True)
def _hit_cylinder(o: F64, d: F64, half: F64) -> tuple[float, int]:
    """Returns the same for an upright cylinder about the origin: the face is 2 for its ends and 3 for its side."""
    best, face = np.inf, 3
    a, b = d[0] * d[0] + d[1] * d[1], o[0] * d[0] + o[1] * d[1]
    disc = b * b - a * (o[0] * o[0] + o[1] * o[1] - half[0] * half[0])
    if disc > 0 and a > 1e-12:
        t = (-b - math.sqrt(disc)) / a
        if t > 1e-6 and abs(o[2] + t * d[2]) <= half[2]:
            best = t
    if abs(d[2]) > 1e-12:
        t = ((half[2] if d[2] < 0 else -half[2]) - o[2]) / d[2]
        x, y = o[0] + t * d[0], o[1] + t * d[1]
        if 1e-6 < t < best and x * x + y * y <= half[0] * half[0]:
            best, face = t, 2
    return best, face


@numba.njit(cache=True, fastmath=True)
def _trace(o: F64, d: F64, solids: F64) -> tuple[float, int, int, F64]:
    """Finds the nearest solid: distance, row, face and the hit in the solid's own frame. Row 0 is the room."""
    best, row, face, place = np.inf, 0, 0, np.zeros(3)
    lo, ld = np.empty(3), np.empty(3)
    for i in range(solids.shape[0]):
        s = solids[i]
        x, y = o[0] - s[0], o[1] - s[1]
        lo[0], lo[1], lo[2] = s[6] * x + s[7] * y, s[6] * y - s[7] * x, o[2] - s[2]
        ld[0], ld[1], ld[2] = s[6] * d[0] + s[7] * d[1], s[6] * d[1] - s[7] * d[0], d[2]
        t, f = _hit_cylinder(lo, ld, s[3:6]) if s[8] > 0 else _hit_box(lo, ld, -s[3:6], s[3:6], i == 0)
        if t < best:
            best, row, face = t, i, f
            place = lo + t * ld
    return best, row, face, place


@numba.njit(cache=True, fastmath=True)
def _texel(texels: F32, spans: NDArray[np.int64], texture: int, u: float, v: float, out: F64) -> None:
    """Looks up a texel, bilinearly; u runs over columns and v over rows, both 0..1."""
    start, rows, columns = spans[texture]
    x = min(max(u * columns - 0.5, 0.0), columns - 1.001)
    y = min(max(v * rows - 0.5, 0.0), rows - 1.001)
    i, j = int(y), int(x)
    a, b, p = y - i, x - j, start + int(y) * columns + int(x)
    for c in range(3):
        top = texels[p, c] * (1 - b) + texels[p + 1, c] * b
        low = texels[p + columns, c] * (1 - b) + texels[p + columns + 1, c] * b
        out[c] = top * (1 - a) + low * a


@numba.njit(cache=True, fastmath=True)
def _shade(o: F64, d: F64, solids: F64, texels: F32, spans: NDArray[np.int64], lamp: F64, out: F64) -> None:
    """Shades matte surfaces under one lamp sample and an ambient term, so that colours do not depend on the view."""
    t, row, face, p = _trace(o, d, solids)
    s = solids[row]
    normal = np.zeros(3)
    if face == 3:
        normal[0], normal[1] = p[0] / s[3], p[1] / s[3]
        u, v = math.atan2(p[1], p[0]) / (2 * math.pi) + 0.5, 0.5 - 0.5 * p[2] / s[5]
    else:
        normal[face] = math.copysign(1.0, p[face]) * (-1.0 if row == 0 else 1.0)
        across, down = int(face == 0), (1 if face == 2 else 2)
        if row == 1:  # the table's texture has columns along y
            across, down = 1, 0
        u, v = 0.5 + 0.5 * p[across] / s[3 + across], 0.5 + 0.5 * p[down] / s[3 + down]
        v = v if row == 1 else 1 - v
        # Letters read from left to right on a box seen from outside and on the room's walls seen from inside.
        if face < 2 and p[face] * (1 - 2 * face) * (1.0 if row == 0 else -1.0) > 0:
            u = 1 - u
    _texel(texels, spans, min(face, 2) if row == 0 else row + 2, u, v, out)
    n = np.array([s[6] * normal[0] - s[7] * normal[1], s[7] * normal[0] + s[6] * normal[1], normal[2]])
    hit = o + t * d + 1e-5 * n
    ray = lamp - hit
    distance = math.sqrt((ray * ray).sum())
    ray /= distance
    facing = max((n * ray).sum(), 0.0)
    if facing > 0 and _trace(hit, ray, solids)[0] < distance - 1e-4:
        facing = 0.0
    light = 0.42 + 0.10 * n[2] + 0.95 * facing / (0.3 + 0.6 * distance * distance)
    for c in range(3):
        out[c] *= light


@numba.njit(cache=True, fastmath=True, parallel=True)
def _render(
    base_from_camera: F64, focal: float, solids: F64, texels: F32, spans: NDArray[np.int64], lamps: F64, image: F32
) -> None:
    height, width, n = image.shape[0], image.shape[1], round(math.sqrt(lamps.shape[0]))
    for row in numba.prange(height):
        colour, d = np.zeros(3), np.zeros(3)
        for column in range(width):
            for k in range(n * n):
                x = (column + (k % n + 0.5) / n - width / 2) / focal
                y = (row + (k // n + 0.5) / n - height / 2) / focal
                length = math.sqrt(x * x + y * y + 1)
                for c in range(3):
                    m = base_from_camera[c]
                    d[c] = (m[0] * x + m[1] * y + m[2]) / length
                _shade(base_from_camera[:3, 3].copy(), d, solids, texels, spans, lamps[k], colour)
                for c in range(3):
                    image[row, column, c] += colour[c] / (n * n)


def build(rng: np.random.Generator) -> tuple[F64, F32, NDArray[np.int64]]:
    """Makes solids (n, 9: centre, half sizes, cos and sin of yaw, round?) and their textures, one after the other."""
    textures = [wall(rng, 700, 1000), wall(rng, 700, 1000), wall(rng, 900, 900)]  # the room's faces across x, y, z
    depth, width = (round((TABLE[1][k] - TABLE[0][k]) * TABLE_PX_PER_M) for k in (0, 1))
    table = wood(rng, depth, width)
    print_board(table)
    textures += [table, *(cardboard(rng, solid.colour, 256) for solid in OBJECTS)]
    rows = [[*(np.array(low) + high) / 2, *(np.array(high) - low) / 2, 1, 0, 0] for low, high in (ROOM, TABLE)]
    rows += [[*s.centre, *s.half, math.cos(s.yaw), math.sin(s.yaw), float(s.round)] for s in OBJECTS]
    starts = np.cumsum([0, *(t.shape[0] * t.shape[1] for t in textures[:-1])])
    spans = np.array([(start, *t.shape[:2]) for start, t in zip(starts, textures, strict=True)])
    return np.array(rows), np.concatenate([t.reshape(-1, 3) for t in textures]), spans


def look(eye: F64, at: F64) -> F64:
    """Returns base_from_camera (4, 4): x right, y down, z forward."""
    z = (at - eye) / np.linalg.norm(at - eye)
    x = np.cross(z, [0, 0, 1.0])
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3] = np.stack([x, np.cross(z, x), z, eye], axis=1)
    return pose


def walk(rng: np.random.Generator, count: int) -> list[F64]:
    """Yields half the photos on a low near arc in front of the work box, half on the way back, higher and farther."""
    poses = []
    for i in range(count):
        back = i >= count // 2
        s = (i % (count // 2)) / (count // 2 - 1)
        angle = math.radians(-68 + 136 * (1 - s if back else s)) + rng.normal(0, 0.03)
        radius, height = (0.9, 0.68 + 0.1 * math.sin(9 * s)) if back else (0.64, 0.42 + 0.06 * math.sin(7 * s))
        eye = np.array([-0.45 - radius * math.cos(angle), radius * math.sin(angle), height]) + rng.normal(0, 0.015, 3)
        poses.append(look(eye, np.array([-0.38, 0.04, 0.0]) + rng.normal(0, 0.03, 3)))
    return poses


def main(out: Path = Path("examples/capture"), count: int = 24, seed: int = 7) -> None:
    """Writes `count` photos, capture.toml and truth.json into `out`."""
    rng = np.random.default_rng(seed)
    solids, texels, spans = build(rng)
    cells = (np.arange(SUPERSAMPLES) + 0.5) / SUPERSAMPLES * 2 - 1
    # One corner of the lamp per ray of a pixel; shuffled so that the lamp's samples do not follow the pixel's.
    lamps = rng.permutation([LIGHT + LIGHT_RADIUS * np.array([a, b, 0]) for a in cells for b in cells])
    out.mkdir(parents=True, exist_ok=True)
    poses = {}
    for i, pose in enumerate(walk(rng, count)):
        image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        _render(pose, FOCAL, solids, texels, spans, lamps, image)
        # sRGB-like display curve
        Image.fromarray((np.clip(image, 0, 1) ** (1 / 1.6) * 255 + 0.5).astype(np.uint8)).save(
            out / f"{i:02d}.jpg", quality=92
        )
        poses[f"{i:02d}.jpg"] = np.round(pose, 6).tolist()
    truth = {
        "camera": {"width": WIDTH, "height": HEIGHT, "fx": FOCAL, "fy": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2},
        "base_from_camera": poses,
        "markers": {str(k): np.round(v, 6).tolist() for k, v in marker_corners().items()},
    }
    (out / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    (out / "capture.toml").write_text(CAPTURE)


CAPTURE = f"""# What the scan has to know beyond the photos: the printed board that gives the metric scale.
[board]
dictionary = "{DICTIONARY}"
marker_m = {MARKER_M}      # side of a marker's black square
gap_m = {GAP_M}        # white between two markers
columns = 2
rows = 2
first_id = 0         # ids go left to right, then down the page
# Where the page lies in the robot's base frame: centre x, y [m] and yaw [rad] of its left-to-right edge.
base_from_board = [{BOARD_XY_YAW[0]}, {BOARD_XY_YAW[1]}, {BOARD_XY_YAW[2]:.6f}]
"""


if __name__ == "__main__":
    tyro.cli(main)
