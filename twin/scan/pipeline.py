"""From photos or a video to a scene folder, one stage after the other; what can fail comes before what takes long.

frames ─► sfm ─► table ─► scale ─► place ─► train ─► clean ─► scene.toml, static.ply, report.json, report.html
                    (SfM units)      │ (base frame, metres from here on)
"""

import tempfile
import time
from collections.abc import Callable
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
from twin.scan.report import ScanReport
from twin.scan.scale import NEEDED, Length, Scale, from_length, from_points
from twin.scan.sfm import Reconstruction, SfmSettings, reconstruct
from twin.scan.table import Plane, TableSettings, find_table
from twin.scan.train import TrainSettings, train
from twin.scene import Scene

Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class ScanSettings:
    """One of `board`, `points` and `length` must fix the scale; a capture.toml beside the photos counts as `board`."""

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

    `on_progress(stage, share)` is told the stage and how much of it is done, 0..1. Raises `SceneError` in one line that
    says what to do about the photos, the board or the length.
    """
    clock = _Clock(on_progress)
    known = _scale_source(source, settings)
    with tempfile.TemporaryDirectory(prefix="twinrl-scan-") as work:
        clock.stage("frames")
        frames = collect(source, Path(work) / "frames", settings.frames)
        clock.stage("poses")
        scene = reconstruct(frames, Path(work) / "sfm", settings.sfm, on_progress)
    clock.stage("alignment")
    table = find_table(scene, settings.table)
    scale, placement = _align(scene, table, frames, known, settings.place)
    scene = scene.transformed(placement.base_from_scaled, scale.metres_per_unit)
    clock.stage("splats")
    trained = train(scene, settings.train, on_progress)
    clock.stage("report")
    cleaned = clean(trained.splats, scene, settings.clean)
    static = cleaned.splats
    twin = Scene(name=settings.name or source.stem, static=static, scale_provenance=scale.provenance)
    side = twin.side.camera(reporting.SIDE_PX)
    pictures = reporting.draw(static, scene.views, trained.held_out, side, settings.train.width)
    twin.save(out)
    report = ScanReport(
        source=str(source),
        registered=len(scene.views),
        pictures=scene.pictures,
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
        held_out_size=(pictures.pairs[0].photo.shape[1], pictures.pairs[0].photo.shape[0]),
        held_out_psnr_db=pictures.psnr_db(),
        held_out_ssim=pictures.ssim(),
        seconds={},
        cameras={view.name: np.round(view.camera.base_from_camera, 6).tolist() for view in scene.views},
        lens=_lens(scene),
    )
    report = replace(report, seconds=clock.finish())
    reporting.write(out, report, pictures)
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


class _Clock:
    """Wall time per stage."""

    def __init__(self, on_progress: Progress) -> None:
        self._tell = on_progress
        self._stage, self._since = "", 0.0
        self._seconds: dict[str, float] = {}

    def stage(self, name: str) -> None:
        """Ends the running stage and starts the next."""
        now = time.monotonic()
        if self._stage:
            self._seconds[self._stage] = round(now - self._since, 2)
        self._stage, self._since = name, now
        self._tell(name, 0.0)

    def finish(self) -> dict[str, float]:
        """Ends the last stage; seconds of all."""
        self.stage("done")
        return self._seconds
