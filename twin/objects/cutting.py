"""This module cuts an object out of a scene: it selects its splats, shapes and weighs it, and closes the table.

scene/ ─► select (box or masks) ─► surface, confirmed by masks ─► object frame ─► convex parts, mass ─► objects/NAME/
   └────► hole covered with table ─► scene/static.ply
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from protos.errors import InputError
from protos.schema import F32
from twin.align import read_cameras, read_masks
from twin.camera import Camera, pose_of
from twin.objects.fill import FillSettings, without_object
from twin.objects.folder import ScannedObject, checked_name
from twin.objects.hull import HullSettings, convex_parts, mass_properties
from twin.objects.select import OrientedBox, SelectSettings, in_box, on_object_masks
from twin.objects.surface import SurfaceSettings, confirmed, surface_points
from twin.rotations import about_z
from twin.scene import Scene
from twin.splats import Splats

FOLDER = "objects"
MaskedView = tuple[Camera, F32]
STRAY_M = 0.01
"""Distance from the object's surface, beside twice their own size, beyond which splats are left behind."""


@dataclass(frozen=True, kw_only=True)
class CutSettings:
    """Settings of a cut: the object, by a box or by masks, and its properties."""

    centre: tuple[float, float, float] | None = None
    """Middle of the box [m], base frame."""
    size: tuple[float, float, float] | None = None
    """Full lengths of the box along its own axes [m]."""
    yaw_deg: float = 0.0
    """Turn of the box, and of the object's frame, about z."""
    masks: Path | None = None
    """Folder of masks instead of a box: one per photo, white where the object is."""
    density: float = 400.0
    """Density of the collision shape [kg/m^3]; things of a household are mostly hollow."""
    mass: float | None = None
    """Mass [kg], if it was weighed."""
    mask_px: int = 480
    confirmed: float = 0.9
    """Share of the masks seeing a point on which it must lie to belong to the shape."""
    select: SelectSettings = field(default_factory=SelectSettings)
    surface: SurfaceSettings = field(default_factory=SurfaceSettings)
    hull: HullSettings = field(default_factory=HullSettings)
    fill: FillSettings = field(default_factory=FillSettings)


def cut(folder: Path, name: str, settings: CutSettings) -> ScannedObject:
    """Cuts `name` out of the scene in `folder`: writes objects/NAME in it and closes the table. Raises `SceneError`."""
    scene = Scene.load(folder)
    views = _views(folder, settings)
    found, rest = cut_splats(scene.static, _rows(scene.static, views, settings), name, settings, views)
    found.save(folder / FOLDER / name)
    replace(scene, static=rest).save(folder)
    return found


def cut_splats(
    static: Splats, rows: NDArray[np.intp], name: str, settings: CutSettings, views: Sequence[MaskedView] = ()
) -> tuple[ScannedObject, Splats]:
    """Returns the object made of the splats `rows`, and the scene without it. Raises `SceneError` or `InputError`."""
    turn = about_z(math.radians(settings.yaw_deg))
    turned = static[rows].transformed(pose_of((0, 0, 0), turn.T))
    surface = surface_points(turned, settings.surface)
    if views:
        surface = confirmed(surface @ turn.T, views, settings.confirmed) @ turn
    middle = (surface.min(axis=0) + surface.max(axis=0)) / 2 * [1, 1, 0]
    parts = convex_parts(surface - middle, settings.hull)
    near = cKDTree(surface).query(turned.means)[0] < np.maximum(STRAY_M, 2 * turned.scales.max(axis=1))
    splats = turned[np.flatnonzero(near)].transformed(pose_of(-middle, np.eye(3)))
    mass_kg = settings.mass if settings.mass is not None else settings.density * mass_properties(parts).volume_m3
    if not 0 < mass_kg < 1000:
        raise InputError(f"mass {mass_kg:g} kg of {name}: more than 0, less than 1000 kg")
    x, y, _ = (float(value) for value in turn @ middle)
    way = f"masks in {settings.masks.name}" if settings.masks else f"box {settings.size} m at {settings.centre} m"
    made = ScannedObject(
        name=checked_name(name),
        splats=splats,
        parts=parts,
        mass_kg=float(mass_kg),
        stood_at=(x, y, 0.0, math.radians(settings.yaw_deg)),
        provenance=f"cut by {way}: {len(splats)} splats, {len(parts)} convex parts",
    )
    return made, without_object(static, rows, settings.fill)


def _views(folder: Path, settings: CutSettings) -> list[MaskedView]:
    if settings.masks is None:
        return []
    return list(read_masks(settings.masks, read_cameras(folder), settings.mask_px).values())


def _rows(static: Splats, views: Sequence[MaskedView], settings: CutSettings) -> NDArray[np.intp]:
    if views:
        return on_object_masks(static, views, settings.select)
    if settings.centre is None or settings.size is None:
        raise InputError("name the object by --centre X Y Z --size X Y Z [m] of a box around it, or by --masks FOLDER")
    box = OrientedBox(centre=settings.centre, size=settings.size, yaw_deg=settings.yaw_deg)
    return in_box(static, box, settings.select)
