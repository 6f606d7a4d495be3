"""This module keeps an object that was cut out of a scan: on disk, and as a movable body.

objects/NAME/
  object.toml    format, name, mass, inertia, where it stood, how it was cut
  splats.ply     its splats in its own frame
  part_0.obj …   its collision shape: convex meshes

The object's frame: z up as in the scan, the table it stood on at z = 0, the middle of its footprint at x = y = 0,
turned by `yaw` about z against the base frame.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protos.errors import SceneError
from protos.schema import F64
from twin.camera import pose_of
from twin.objects.hull import MassProperties, mass_properties
from twin.parts import FORMAT, MOST_PARTS, Part, part_text, read_part
from twin.robots.mjcf import numbers
from twin.rotations import about_z
from twin.scene import read_versioned
from twin.splats import Splats, read_ply, write_ply


@dataclass(frozen=True, kw_only=True)
class ScannedObject:
    """A scanned object has splats to be drawn, convex parts to be touched, and a mass."""

    name: str
    splats: Splats
    parts: tuple[Part, ...]
    mass_kg: float
    stood_at: tuple[float, float, float, float]
    """Its place in the scan: x, y, z [m], yaw [rad] of its frame, base frame."""
    provenance: str
    """Description of the cut, in words."""

    @property
    def size_m(self) -> F64:
        """Returns the extent of the collision shape along the object's axes (3,)."""
        corners = np.concatenate([part.vertices for part in self.parts])
        return np.asarray(np.ptp(corners, axis=0))

    @property
    def base_from_object(self) -> F64:
        """Returns its pose (4, 4) in the scan."""
        return pose_of(self.stood_at[:3], about_z(self.stood_at[3]))

    @property
    def mass_properties(self) -> MassProperties:
        """Returns the mass properties of the collision shape, per kilogram."""
        return mass_properties(self.parts)

    def assets(self) -> str:
        """Returns MJCF meshes, vertices inline, for a task's `assets`."""
        return "".join(
            f'<mesh name="{self.name}_{k}" vertex="{numbers(*part.vertices.ravel())}" '
            f'face="{" ".join(map(str, part.faces.ravel()))}"/>'
            for k, part in enumerate(self.parts)
        )

    def mjcf(self, friction: float, *, mass_kg: float | None = None) -> str:
        """Returns a free body named like the object, for a task's `mjcf`. Draw it by `Task.splats[name]`."""
        mass = self.mass_kg if mass_kg is None else mass_kg
        _, centre, inertia = self.mass_properties
        upper = mass * inertia[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
        geoms = "".join(
            f'<geom type="mesh" mesh="{self.name}_{k}" friction="{friction} .01 .001" condim="4"/>'
            for k in range(len(self.parts))
        )
        return (
            f'<body name="{self.name}"><freejoint name="{self.name}"/><inertial pos="{numbers(*centre)}" '
            f'mass="{mass:.6g}" fullinertia="{numbers(*upper)}"/>{geoms}</body>'
        )

    def save(self, folder: Path) -> None:
        """Writes the object's folder, making it if needed; parts of an earlier object there are removed."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("part_*.obj"):
            old.unlink()
        write_ply(folder / "splats.ply", self.splats)
        for k, part in enumerate(self.parts):
            (folder / f"part_{k}.obj").write_text(part_text(part), encoding="ascii")
        lines = [
            f"format = {FORMAT}",
            f"name = {json.dumps(self.name)}",
            f"parts = {len(self.parts)}",
            f"mass_kg = {self.mass_kg!r}",
            f"stood_at = {json.dumps([float(value) for value in self.stood_at])}  # x, y, z [m], yaw [rad], base frame",
            f"provenance = {json.dumps(self.provenance)}",
        ]
        (folder / "object.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path | str) -> "ScannedObject":
        """Reads an object's folder. Raises `SceneError`, or `SchemaMismatch` for another format."""
        path = Path(folder) / "object.toml"
        table = read_versioned(path, version=FORMAT, made_by="`twinrl cut` makes object folders")
        try:
            return _object(table, Path(folder))
        except KeyError as error:
            raise SceneError(f"{path}: no entry {error.args[0]!r}") from error
        except (TypeError, ValueError) as error:
            raise error if isinstance(error, SceneError) else SceneError(f"{path}: {error}") from error


def _object(table: dict[str, Any], folder: Path) -> ScannedObject:
    count, mass_kg = int(table["parts"]), float(table["mass_kg"])
    x, y, z, yaw = (float(value) for value in table["stood_at"])
    if not 1 <= count <= MOST_PARTS or not 0 < mass_kg < 1000 or not all(map(math.isfinite, (x, y, z, yaw))):
        raise ValueError(
            f"parts = {count} (1 to {MOST_PARTS}), mass_kg = {mass_kg} (more than 0, below 1000): out of bounds, or "
            "stood_at is not finite"
        )
    return ScannedObject(
        name=checked_name(str(table["name"])),
        splats=read_ply(folder / "splats.ply"),
        parts=tuple(read_part(folder / f"part_{k}.obj") for k in range(count)),
        mass_kg=mass_kg,
        stood_at=(x, y, z, yaw),
        provenance=str(table["provenance"]),
    )


def checked_name(name: str) -> str:
    """Returns a name that can stand in MJCF, in a path and in a configuration. Raises `SceneError` for others."""
    if not (name.isascii() and name.replace("_", "").isalnum() and len(name) <= 64):
        raise SceneError(f"object name {name!r}: up to 64 ASCII letters, digits and underscores, as in 'green_mug'")
    return name
