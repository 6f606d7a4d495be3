"""This room cuts objects out of a scan, to be moved by physics and drawn as they were photographed.

    scene ─► select (box or masks) ─► surface ─► hull (convex parts, mass) ─► folder: ScannedObject in objects/NAME
      └────► fill: the hole covered with table ─► static.ply

`cut(scene folder, name, settings)` does all of it; `ScannedObject.load(folder)` reads the result.
"""

from twin.objects.cutting import FOLDER, CutSettings, cut
from twin.objects.folder import ScannedObject

__all__ = ["FOLDER", "CutSettings", "ScannedObject", "cut"]
