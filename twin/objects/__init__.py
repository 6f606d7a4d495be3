"""Objects cut out of a scan, to be moved by physics and drawn as they were photographed.

twin.objects.cut      cut(scene folder, name, settings) -> ScannedObject; the scene's table is closed behind it
twin.objects.folder   ScannedObject.load(folder), .splats, .assets(), .mjcf(friction), .base_from_object
twin.objects.select   which splats, by box or by masks;  twin.objects.hull  convex parts;  twin.objects.fill  the hole
"""

from twin.objects.folder import ScannedObject

__all__ = ["ScannedObject"]
