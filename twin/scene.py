"""This module keeps a scanned workspace on disk: what does not move, and the cameras.

scene/
  scene.toml    format, name, where the scale came from, cameras, workspace
  static.ply    splats of the table and its surroundings, base frame, metres
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from protos.errors import SceneError, SchemaMismatch
from protos.schema import F64
from protos.space import Box
from twin import robots
from twin.camera import Camera, look_at, pose_looking, square_camera
from twin.robots import UR5E, Robot, Transform
from twin.splats import Splats, concatenate, read_ply, write_ply
from twin.surfaces import LIGHT, Light, grid, surface_splats

FORMAT = 1
"""Version of scene.toml."""
TABLE = Box(x=(-0.80, 0.10), y=(-0.55, 0.55), z=(0.0, 0.40))
"""Table in front of and around the robot, and the air above it."""
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class SideCamera:
    """The side camera watches the workspace, level with the horizon."""

    eye: Triple = (-1.02, 0.0, 0.46)
    """Base frame [m]."""
    along: Triple = (0.74, 0.0, -0.67)
    fovy_deg: float = 52.0

    def camera(self, px: int, shift_m: Triple = (0.0, 0.0, 0.0)) -> Camera:
        """Returns the square camera, moved by `shift_m`."""
        return look_at(np.add(self.eye, shift_m), along=self.along, fovy_deg=self.fovy_deg, px=px)


@dataclass(frozen=True, kw_only=True)
class WristCamera:
    """The wrist camera sits on the gripper; in the tool frame z points out of the gripper, x across the fingers."""

    position: Triple = (0.0, 0.06, -0.08)
    direction: Triple = (0.0, -0.6, 0.8)
    fovy_deg: float = 70.0

    @property
    def tcp_from_camera(self) -> F64:
        """Pose (4, 4) on the tool; the tool's x axis is the image's right."""
        return pose_looking(self.position, self.direction, (1, 0, 0))

    def camera(self, px: int, base_from_tcp: F64) -> Camera:
        """Returns the camera at one tool pose (4, 4)."""
        return square_camera(base_from_tcp @ self.tcp_from_camera, fovy_deg=self.fovy_deg, px=px)


@dataclass(frozen=True, kw_only=True)
class RobotAlignment:
    """An alignment says how well the robot's model lay on its masks when the base frame was found from the robot."""

    method: str
    """Method of `twin.align`: "photos" or "splats"."""
    views: int
    residual_mm: float
    """Mean distance of the outlines of model and masks, at the robot's depth."""
    residual_px: float
    uncertain_mm: float
    """Play that the masks left in their weakest direction, one standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A scene is one workspace in the robot's base frame; the table top is z = 0."""

    name: str
    static: Splats
    scale_provenance: str
    """Origin of the metric scale, in words, for reports."""
    side: SideCamera = SideCamera()
    wrist: WristCamera = WristCamera()
    workspace: Box = TABLE
    """Part of the table that the wrist camera can see."""
    robot: Robot = UR5E
    """Arm that stands there; scene.toml has its name and how its tool is mounted."""
    light: Light = LIGHT
    """Light on what moves; a scan does not measure it, so it is not kept in scene.toml, nor is the blur."""
    blur: float = 0.0
    """Standard deviation of the images' blur, as a share of their width."""
    alignment: RobotAlignment | None = None
    """Alignment to the robot; None where the base frame comes from a board, or from the photos' positions."""

    def save(self, folder: Path | str) -> None:
        """Writes scene.toml and static.ply, making the folder if needed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_ply(folder / "static.ply", self.static)
        (folder / "scene.toml").write_text(_toml(self), encoding="utf-8")

    @staticmethod
    def load(folder: Path | str) -> "Scene":
        """Reads a scene folder. Raises `SceneError`, or `SchemaMismatch` for another format."""
        path = Path(folder) / "scene.toml"
        table = read_versioned(path, version=FORMAT, made_by="`twinrl scan` makes scene folders")
        static = read_ply(Path(folder) / "static.ply")
        try:
            return Scene(
                name=str(table["name"]),
                static=static,
                scale_provenance=str(table["scale_provenance"]),
                side=SideCamera(**_camera(table["side_camera"], ("eye", "along"))),
                wrist=WristCamera(**_camera(table["wrist_camera"], ("position", "direction"))),
                workspace=Box(**{axis: _numbers(table["workspace"][axis], 2) for axis in ("x", "y", "z")}),
                robot=_robot(table),
                alignment=_alignment(table["alignment"]) if "alignment" in table else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SceneError(f"{path}: {_reason(error)}") from error


def synthetic_scene(spacing_m: float = 0.008) -> Scene:
    """Makes a table with wood grain and a back wall, without photos: for tests, examples, a first look."""
    rng = np.random.default_rng(0)
    x, y = grid(0.45, 0.55, spacing_m)
    table = surface_splats(
        (np.stack([x - 0.35, y, 0 * x], 1), np.tile([0.0, 0.0, 1.0], (len(x), 1))), spacing_m, (0.75, 0.70, 0.62)
    )
    across, along = -y, x + 0.15
    grain = 0.06 * np.sin(9 * across + 2.5 * np.sin(6 * along)) + 0.04 * np.sin(41 * across + 5 * np.sin(3 * along))
    grain += 0.02 * rng.normal(size=len(x))
    table = table.coloured(table.colours * (1 + grain)[:, None] / 0.93)
    y, z = grid(1.2, 0.6, 0.05)
    wall = surface_splats(
        (np.stack([0 * y + 0.25, y, z + 0.3], 1), np.tile([-1.0, 0.0, 0.0], (len(y), 1))), 0.05, (0.62, 0.68, 0.66)
    )
    wall = wall.coloured(wall.colours * (1 + 0.03 * rng.normal(size=len(y)))[:, None])
    return Scene(name="synthetic", static=concatenate([table, wall]), scale_provenance="made in metres, not scanned")


def read_toml(path: Path, *, unreadable: str) -> dict[str, Any]:
    """Reads a file. Raises `SceneError`: `unreadable` where there is no such file, else why it is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SceneError(unreadable) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SceneError(f"{path}: not valid TOML: {error}") from error


def read_versioned(path: Path, *, version: int, made_by: str) -> dict[str, Any]:
    """Reads a file with a `format` entry. Raises `SchemaMismatch` for another version than ours."""
    table = read_toml(path, unreadable=f"{path.parent}: no readable {path.name}; {made_by}")
    if table.get("format") != version:
        raise SchemaMismatch(f"{path}: {path.stem} format {table.get('format')}, this version reads format {version}")
    return table


def _toml(scene: Scene) -> str:
    def row(values: Sequence[float]) -> str:
        return "[" + ", ".join(repr(float(value)) for value in values) + "]"

    tool = scene.robot.flange_from_gripper
    side, wrist, space = scene.side, scene.wrist, scene.workspace
    lines = [
        f"format = {FORMAT}",
        f"name = {json.dumps(scene.name)}",
        f"scale_provenance = {json.dumps(scene.scale_provenance)}",
        f"robot = {json.dumps(scene.robot.name)}  # one of {', '.join(robots.names())}",
        "# Robot base frame: metres, z up, table top at z = 0.",
        "",
        "[side_camera]",
        f"eye = {row(side.eye)}",
        f"along = {row(side.along)}",
        f"fovy_deg = {float(side.fovy_deg)!r}",
        "",
        "[wrist_camera]  # tool frame: origin at the TCP, z out of the gripper, x across the fingers",
        f"position = {row(wrist.position)}",
        f"direction = {row(wrist.direction)}",
        f"fovy_deg = {float(wrist.fovy_deg)!r}",
        "",
        "[tool]  # how the gripper is bolted to the flange: m, quaternion wxyz",
        f"gripper = {json.dumps(scene.robot.gripper.name)}",
        f"position = {row(tool.position)}",
        f"quaternion = {row(tool.quaternion)}",
        "",
        "[workspace]",
        *(f"{axis} = {row(limits)}" for axis, limits in (("x", space.x), ("y", space.y), ("z", space.z))),
    ]
    if scene.alignment is not None:
        lines += ["", "[alignment]  # base frame found from the robot itself", *_entries(scene.alignment)]
    return "\n".join(lines) + "\n"


def _entries(alignment: RobotAlignment) -> list[str]:
    return [f"{name} = {json.dumps(value)}" for name, value in vars(alignment).items()]


def _alignment(table: Mapping[str, Any]) -> RobotAlignment:
    residual_mm, residual_px, uncertain_mm = _numbers(
        [table[name] for name in ("residual_mm", "residual_px", "uncertain_mm")], 3
    )
    return RobotAlignment(
        method=str(table["method"]),
        views=int(table["views"]),
        residual_mm=residual_mm,
        residual_px=residual_px,
        uncertain_mm=uncertain_mm,
    )


def _camera(table: Mapping[str, Any], vectors: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {name: _numbers(table[name], 3) for name in vectors}
    return settings | {"fovy_deg": float(table["fovy_deg"])}


def _robot(table: Mapping[str, Any]) -> Robot:
    """Returns the robot that a scene names, by default the UR5e, with its tool mounted as the scene says."""
    robot, tool = robots.get(str(table.get("robot", UR5E.name))), table.get("tool", {})
    if unknown := set(tool) - {"gripper", "position", "quaternion"}:
        raise ValueError(f"[tool] {', '.join(sorted(unknown))}: it has gripper, position and quaternion")
    mount, gripper = robot.flange_from_gripper, str(tool.get("gripper", robot.gripper.name))
    quaternion = np.array(_numbers(tool.get("quaternion", mount.quaternion), 4))
    if abs(np.linalg.norm(quaternion) - 1) > 1e-3:
        raise ValueError(f"[tool] quaternion {quaternion.tolist()}: of length {np.linalg.norm(quaternion):.4g}, not 1")
    return replace(
        robot,
        gripper=robot.gripper if gripper == robot.gripper.name else robots.get_gripper(gripper),
        flange_from_gripper=Transform(
            position=_numbers(tool.get("position", mount.position), 3), quaternion=tuple(quaternion.tolist())
        ),
    )


def _numbers(values: Any, count: int) -> Any:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"expected {count} finite numbers, found {list(values)}")
    return numbers


def _reason(error: Exception) -> str:
    return f"no entry {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
