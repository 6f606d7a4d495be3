"""This module makes a scene folder from photos or a video, step after step; what can fail comes before what takes long.

frames ─► sfm ─► table ─► scale ─► place ─► train ─► clean ─► scene.toml, static.ply, report.json, report.html
                    (SfM units)      │ (base frame, metres from here on)
"""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from protos.errors import InputError, SceneError
from twin.scan import report as reporting
from twin.scan.board import from_board
from twin.scan.capture import FILE, Board, KnownPoint, point_of, read_capture
from twin.scan.clean import CleanSettings, clean
from twin.scan.frames import Frames, FrameSettings, collect
from twin.scan.place import Placement, PlaceSettings, place_by_reference, place_by_views
from twin.scan.progress import Clock, Progress, ScanStep
from twin.scan.report import ScanReport
from twin.scan.scale import NEEDED, Length, Scale, from_length, from_points
from twin.scan.sfm import Reconstruction, SfmSettings, reconstruct
from twin.scan.table import Plane, TableSettings, find_table
from twin.scan.train import TrainSettings, train
from twin.scene import Scene


@dataclass(frozen=True, kw_only=True)
class ScanSettings:
    """Settings of a scan. `board`, `points` or `length` fixes the scale; a capture.toml beside the photos does too."""

    board: Path | None = None
    """A capture.toml that describes the printed board, or known points; default: the one in the capture's folder."""
    points: tuple[str, ...] = ()
    """Known points, PHOTO:COLUMN,ROW=X,Y,Z: a pixel of a photo's file and its place in the base frame [m]."""
    length: float | None = None
    """A known length on the table top [m], between the two pixels `from` and `to` of `photo`."""
    photo: str = ""
    """File name of the photo that shows it."""
    start: Annotated[str, tyro.conf.arg(name="from", metavar="X,Y")] = ""
    end: Annotated[str, tyro.conf.arg(name="to", metavar="X,Y")] = ""
    name: str = ""
    """Name of the scene; default: the source's."""
    frames: FrameSettings = field(default_factory=FrameSettings)
    sfm: SfmSettings = field(default_factory=SfmSettings)
    table: TableSettings = field(default_factory=TableSettings)
    place: PlaceSettings = field(default_factory=PlaceSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    clean: CleanSettings = field(default_factory=CleanSettings)


def scan(source: Path, out: Path, *, settings: ScanSettings, on_progress: Progress) -> ScanReport:
    """Makes the scene folder `out` from a folder of photos or a video.

    `on_progress(step, share)` is told the step and how much of it is done, 0..1. Raises `SceneError` in one line that
    says what to do about the photos, the board or the length.
    """
    known = _scale_source(source, settings)
    clock = Clock(on_progress)
    with tempfile.TemporaryDirectory(prefix="twinrl-scan-") as work:
        clock(ScanStep.FRAMES, 0.0)
        frames = collect(source, Path(work) / "frames", settings.frames)
        scene = reconstruct(frames, Path(work) / "sfm", settings.sfm, clock)
    clock(ScanStep.ALIGNMENT, 0.0)
    table = find_table(scene, settings.table)
    scale, placement = _align(scene, table, frames, known, settings.place)
    scene = scene.transformed(placement.base_from_scaled, scale.metres_per_unit)
    trained = train(scene, settings.train, clock)
    clock(ScanStep.REPORT, 0.0)
    cleaned = clean(trained.splats, scene, settings.clean)
    static = cleaned.splats
    twin = Scene(name=settings.name or source.stem, static=static, scale_provenance=scale.provenance)
    side = twin.side.camera(reporting.SIDE_PX)
    images = reporting.draw(static, scene.views, trained.held_out, side, settings.train.width)
    twin.save(out)
    report = ScanReport(
        source=str(source),
        registered=len(scene.views),
        photos=scene.photos,
        dropped=frames.dropped,
        thinned=frames.thinned,
        others=scene.others,
        alone=scene.alone,
        masked_percent=100 * (1 - float(np.mean([view.valid.mean() for view in scene.views]))),
        points=len(scene.points),
        reprojection_px=scene.reprojection_px,
        scale_provenance=scale.provenance,
        metres_per_unit=scale.metres_per_unit,
        scale_residual_mm=scale.residual_mm,
        scale_residual_px=scale.residual_px,
        scale_spread_percent=scale.spread_percent,
        placement=placement.note,
        table_points=table.support,
        table_spread_mm=table.spread * scale.metres_per_unit * 1e3,
        splats=len(static),
        cleaned=cleaned.dropped,
        held_out=trained.held_out,
        held_out_size=(images.pairs[0].photo.shape[1], images.pairs[0].photo.shape[0]),
        held_out_psnr_db=images.psnr_db(),
        held_out_ssim=images.ssim(),
        seconds={},
        cameras={view.name: np.round(view.camera.base_from_camera, 6).tolist() for view in scene.views},
        lens=_lens(scene),
    )
    clock.stop()
    report = replace(report, seconds={step.label: round(spent, 2) for step, spent in clock.seconds.items()})
    reporting.write(out, report, images)
    return report


def _lens(scene: Reconstruction) -> dict[str, float | list[float]]:
    camera = scene.views[0].camera
    numbers = {name: getattr(camera, name) for name in ("width", "height", "fx", "fy", "cx", "cy")}
    return numbers | {"distortion": list(scene.lens.distortion)}


_Known = Board | tuple[KnownPoint, ...] | Length


def _scale_source(source: Path, settings: ScanSettings) -> _Known:
    """Refuses a capture without a scale before any work is done; what is given by hand wins over a capture.toml."""
    given = [settings.length is not None, bool(settings.points), settings.board is not None]
    if sum(given) > 1:
        raise InputError("--length, --points and --board each fix the scale; give one of them")
    if settings.length is not None:
        if not settings.photo:
            raise InputError("--length needs --photo: the file name of the photo that shows it")
        start, end = _pixel("from", settings.start), _pixel("to", settings.end)
        return Length(metres=settings.length, photo=settings.photo, start=start, end=end)
    if settings.points:
        return tuple(point_of(text) for text in settings.points)
    if settings.board is not None:
        return read_capture(settings.board)
    beside = (source if source.is_dir() else source.parent) / FILE
    if not source.exists() or (source.is_dir() and not any(source.iterdir())):
        raise SceneError(f"{source} is empty or missing; give a folder of photos or a video file")
    if not beside.exists():
        raise SceneError(f"{source}: {NEEDED}")
    return read_capture(beside)


def _align(
    scene: Reconstruction, table: Plane, frames: Frames, known: _Known, settings: PlaceSettings
) -> tuple[Scale, Placement]:
    if isinstance(known, Length):
        scale = from_length(scene, table, known, frames.shrink)
        return scale, place_by_views(scene, scale, table, settings, frames.shrink)
    scale = from_board(scene, known) if isinstance(known, Board) else from_points(scene, table, known, frames.shrink)
    return scale, place_by_reference(scale, table)


def _pixel(name: str, text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--{name} {text!r}: two numbers with a comma, column and row of the pixel: --{name} 120,340"
        ) from None
    return x, y
