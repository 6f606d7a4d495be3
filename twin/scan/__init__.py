"""A phone video, or a folder of photos, turned into a metric scene in the robot's base frame.

    photos | video ─► frames ─► structure from motion ─► table plane ─► metric scale ─► robot placed
                                                                                            │
    scene.toml, static.ply, report.html ◄── cleaned ◄── splats trained on the photos ◄──────┘

The scale comes from a printed board or known points (capture.toml), or one known length, and is never guessed. Blurred
and repeated pictures, pictures that do not fit to the largest model, and what masks cover are left out and reported.
The doors:

    scan(source, out, settings=ScanSettings(), on_progress=...) -> ScanReport
    twinrl scan SOURCE --out FOLDER [--length 0.30 --photo 00.png --from 120,340 --to 410,355]
"""

from twin.scan.pipeline import Progress, ScanSettings, scan
from twin.scan.report import ScanReport

__all__ = ["Progress", "ScanReport", "ScanSettings", "scan"]
