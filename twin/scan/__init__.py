"""This room turns a phone video, or a folder of photos, into a metric scene in the robot's base frame.

    photos | video ─► frames ─► structure from motion ─► table plane ─► metric scale ─► robot placed
                                                                                            │
    scene.toml, static.ply, report.html ◄── cleaned ◄── splats trained on the photos ◄──────┘

The scale comes from a printed board or known points (capture.toml), or one known length, and is never guessed. Blurred
and repeated photos, photos that do not fit to the largest model, and what masks cover are left out and reported.

    scan(source, out, settings=ScanSettings(), on_progress=...) -> ScanReport
    twinrl scan SOURCE --out FOLDER [--length 0.30 --photo 00.png --from 120,340 --to 410,355]
"""

from twin.scan.capture import write_points_page
from twin.scan.pipeline import ScanSettings, scan
from twin.scan.progress import Progress, ScanStep
from twin.scan.report import ScanReport
from twin.scan.train import TrainSettings

__all__ = ["Progress", "ScanReport", "ScanSettings", "ScanStep", "TrainSettings", "scan", "write_points_page"]
