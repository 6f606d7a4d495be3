"""What a scan found, for people (report.html, pictures inside) and for programs (report.json)."""

import base64
import html
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from protos.schema import F32
from twin.camera import Camera
from twin.render import rasterize
from twin.scan.frames import U8
from twin.scan.sfm import View
from twin.scan.train import small
from twin.splats import Splats

SIDE_PX = 480


@dataclass(frozen=True, kw_only=True)
class ScanReport:
    """The figures of one scan."""

    source: str
    registered: int
    """Pictures whose pose was found, of `pictures`."""
    pictures: int
    dropped: int
    """Video frames left out as blurred or repeated."""
    points: int
    reprojection_px: float
    """Mean over all sparse points."""
    scale_provenance: str
    metres_per_unit: float
    board_spread_percent: float | None
    board_reprojection_px: float | None
    placement: str
    table_points: int
    table_spread_mm: float
    """RMS distance of the table's points from its plane."""
    splats: int
    held_out: tuple[str, ...]
    held_out_psnr_db: float
    """Of the cleaned scene, at training resolution."""
    seconds: dict[str, float]
    """Wall time per stage."""
    cameras: dict[str, list[list[float]]]
    """base_from_camera (4, 4) of every registered picture."""
    lens: dict[str, float | list[float]]
    """Of the pictures as reconstructed: width, height, fx, fy, cx, cy [px], distortion k1, k2, p1, p2 (OpenCV)."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Photographs and renders (height, width, 3) u8 for the report."""

    pairs: tuple[tuple[str, U8, U8], ...]
    """Name, photo, render of every held-out view."""
    side: U8


def draw(splats: Splats, views: Sequence[View], held_out: Sequence[str], side: Camera, width: int) -> Pictures:
    """Renders the held-out views at training resolution and the scene's side camera."""
    pairs = []
    for view in views:
        if view.name in held_out:
            camera = small(view.camera, width)
            photo = cv2.resize(view.picture, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
            pairs.append((view.name, photo, _u8(rasterize(splats, camera).over())))
    return Pictures(pairs=tuple(pairs), side=_u8(rasterize(splats, side).over()))


def psnr(pictures: Pictures) -> float:
    """Mean peak signal-to-noise ratio [dB] over the pairs."""
    errors = [((a.astype(float) - b) ** 2).mean() / 255**2 for _, a, b in pictures.pairs]
    return float(np.mean([-10 * math.log10(max(error, 1e-10)) for error in errors]))


def write(folder: Path, report: ScanReport, pictures: Pictures) -> None:
    """Writes report.json, report.html and side.png."""
    (folder / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    (folder / "side.png").write_bytes(_encoded(pictures.side, ".png"))
    (folder / "report.html").write_text(_page(report, pictures), encoding="utf-8")


def _page(report: ScanReport, pictures: Pictures) -> str:
    spread = report.board_spread_percent
    certainty = "rests on one length given by hand" if spread is None else f"{spread:.2f} % spread"
    rows = [
        ("source", report.source),
        ("pictures registered", f"{report.registered} of {report.pictures}"),
        ("video frames left out", str(report.dropped)),
        ("sparse points", f"{report.points}, mean reprojection error {report.reprojection_px:.2f} px"),
        ("scale", report.scale_provenance),
        ("scale certainty", certainty),
        ("placement", report.placement),
        ("table", f"{report.table_points} points within {report.table_spread_mm:.1f} mm (RMS) of a plane"),
        ("splats", str(report.splats)),
        ("held-out PSNR", f"{report.held_out_psnr_db:.1f} dB over {len(report.held_out)} views never trained on"),
        ("wall time", ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())),
    ]
    table = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows)
    pairs = "".join(
        f"<figure>{_image(photo)}{_image(shown)}<figcaption>{html.escape(name)}: photo | render</figcaption></figure>"
        for name, photo, shown in pictures.pairs
    )
    return (
        "<!doctype html><meta charset=utf-8><title>Scan report</title><style>"
        "body{font:15px/1.5 system-ui;margin:2rem auto;max-width:64rem}figure{margin:1rem 0}"
        "th{text-align:left;padding-right:1.5rem;vertical-align:top;white-space:nowrap}"
        "img{max-width:49%;margin-right:1%}</style><h1>Scan report</h1>"
        f"<table>{table}</table><h2>What the side camera will see</h2>{_image(pictures.side)}"
        f"<h2>Views kept out of training</h2>{pairs}\n"
    )


def _image(picture: U8) -> str:
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(_encoded(picture, ".jpg")).decode()}">'


def _encoded(picture: U8, suffix: str) -> bytes:
    done, data = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def _u8(image: F32) -> U8:
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
