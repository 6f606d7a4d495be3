"""This module reports on a scan, to people (report.html, images inside) and to programs (report.json).

PSNR = -10 log10 MSE [dB]; SSIM as in Wang et al., "Image Quality Assessment", IEEE TIP 2004: Gaussian window of
σ = 1.5 px, K = (0.01, 0.03), mean over the image's pixels and channels.
"""

import base64
import html
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from protos.schema import F32, U8, Bools
from twin.camera import Camera
from twin.render import rasterize
from twin.scan.frames import Dropped
from twin.scan.sfm import View
from twin.scan.train import shrunk, small
from twin.splats import Splats

SIDE_PX = 480


@dataclass(frozen=True, kw_only=True)
class ScanReport:
    """The figures of one scan."""

    source: str
    registered: int
    """Number of photos whose pose was found, of `photos`."""
    photos: int
    dropped: tuple[Dropped, ...]
    """Photos left out as blurred or repeated."""
    thinned: int
    """Number of frames of a video that were not the sharpest of their window."""
    others: tuple[tuple[str, ...], ...]
    """Photos that fit together but not with the scene, by model."""
    alone: tuple[str, ...]
    """Photos that fit to no other."""
    masked_percent: float
    """Share of the photos that masks cover, or that the lens does not show."""
    points: int
    reprojection_px: float
    """Mean reprojection error of all sparse points."""
    scale_provenance: str
    metres_per_unit: float
    scale_residual_mm: float | None
    """RMS distance in the base frame between what fixed the scale as given and as found; None for a single length."""
    scale_residual_px: float | None
    """RMS distance of the same in the photos."""
    scale_spread_percent: float | None
    """Standard deviation of the scale over the known distances."""
    placement: str
    table_points: int
    table_spread_mm: float
    """RMS distance of the table's points from its plane."""
    splats: int
    cleaned: dict[str, int]
    """Number of splats removed after training, by reason."""
    held_out: tuple[str, ...]
    held_out_size: tuple[int, int]
    """Width and height [px] at which the held-out views are compared."""
    held_out_psnr_db: float
    """Mean PSNR of the cleaned scene over the held-out views."""
    held_out_ssim: float
    seconds: dict[str, float]
    """Wall time per step."""
    cameras: dict[str, list[list[float]]]
    """base_from_camera (4, 4) of every registered photo."""
    lens: dict[str, float | list[float]]
    """Lens of the photos: width, height, fx, fy, cx, cy [px], distortion k1, k2, p1, p2 (OpenCV)."""

    def warnings(self) -> list[str]:
        """Returns one line for each thing that a person should know before trusting the scene."""
        lines = [f"{one.name} left out: {one.reason}" for one in self.dropped]
        for group in self.others:
            lines.append(
                f"{len(group)} photos fit together but not with the other {self.registered}, so they are not in the "
                f"scene: {', '.join(group)}; take photos in between"
            )
        if self.alone:
            lines.append(f"{len(self.alone)} photos fit to no other and are not in the scene: {', '.join(self.alone)}")
        return lines


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A held-out view: photo and render (H, W, 3), and the pixels that count (H, W)."""

    name: str
    photo: U8
    shown: U8
    valid: Bools


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images of a report."""

    pairs: tuple[Pair, ...]
    side: U8

    def psnr_db(self) -> float:
        """Returns the mean over the pairs."""
        return float(np.mean([psnr(pair.photo, pair.shown, pair.valid) for pair in self.pairs]))

    def ssim(self) -> float:
        """Returns the mean over the pairs."""
        return float(np.mean([ssim(pair.photo, pair.shown, pair.valid) for pair in self.pairs]))


def draw(splats: Splats, views: Sequence[View], held_out: Sequence[str], side: Camera, width: int) -> Images:
    """Renders the held-out views at training resolution and the scene's side camera."""
    pairs = []
    for view in views:
        if view.name in held_out:
            camera = small(view.camera, width)
            photo, valid = shrunk(view, camera)
            pairs.append(Pair(name=view.name, photo=photo, shown=_u8(rasterize(splats, camera).over()), valid=valid))
    return Images(pairs=tuple(pairs), side=_u8(rasterize(splats, side).over()))


def write(folder: Path, report: ScanReport, images: Images) -> None:
    """Writes report.json, report.html and side.png."""
    content = asdict(report) | {"warnings": report.warnings()}
    (folder / "report.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "side.png").write_bytes(_encoded(images.side, ".png"))
    (folder / "report.html").write_text(_page(report, images), encoding="utf-8")


def _rows(report: ScanReport) -> list[tuple[str, str]]:
    width, height = report.held_out_size
    views = f"{len(report.held_out)} views never trained on, at {width} x {height} px"
    return [
        ("source", report.source),
        ("photos registered", f"{report.registered} of {report.photos}"),
        ("left out before", f"{len(report.dropped)} blurred or repeated, {report.thinned} video frames not needed"),
        ("masked, or beyond the lens", f"{report.masked_percent:.1f} % of the pixels"),
        ("sparse points", f"{report.points}, mean reprojection error {report.reprojection_px:.2f} px"),
        ("scale", report.scale_provenance),
        ("scale certainty", _certainty(report)),
        ("placement", report.placement),
        ("table", f"{report.table_points} points within {report.table_spread_mm:.1f} mm (RMS) of a plane"),
        ("splats", f"{report.splats} after taking away {_listed(report.cleaned)}"),
        ("held-out PSNR", f"{report.held_out_psnr_db:.1f} dB over {views}"),
        ("held-out SSIM", f"{report.held_out_ssim:.3f}"),
        ("wall time", ", ".join(f"{step} {seconds:.1f} s" for step, seconds in report.seconds.items())),
    ]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none"


def _certainty(report: ScanReport) -> str:
    if report.scale_residual_mm is None:
        return "rests on one length given by hand"
    spread = "" if report.scale_spread_percent is None else f", distances spread by {report.scale_spread_percent:.2f} %"
    return f"residual {report.scale_residual_mm:.2f} mm, {report.scale_residual_px:.2f} px (RMS){spread}"


def _page(report: ScanReport, images: Images) -> str:
    table = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in _rows(report))
    warnings = "".join(f"<li>{html.escape(line)}</li>" for line in report.warnings())
    pairs = "".join(
        f"<figure>{_img(pair.photo)}{_img(pair.shown)}<figcaption>{html.escape(pair.name)}: photo | render, "
        f"{psnr(pair.photo, pair.shown, pair.valid):.1f} dB, SSIM {ssim(pair.photo, pair.shown, pair.valid):.3f}"
        "</figcaption></figure>"
        for pair in images.pairs
    )
    return (
        "<!doctype html><meta charset=utf-8><title>Scan report</title><style>"
        "body{font:15px/1.5 system-ui;margin:2rem auto;max-width:64rem}figure{margin:1rem 0}"
        "th{text-align:left;padding-right:1.5rem;vertical-align:top;white-space:nowrap}"
        "img{max-width:49%;margin-right:1%}</style><h1>Scan report</h1>"
        f"<table>{table}</table>"
        + (f"<h2>Left out</h2><ul>{warnings}</ul>" if warnings else "")
        + f"<h2>What the side camera will see</h2>{_img(images.side)}"
        f"<h2>Views kept out of training</h2>{pairs}\n"
    )


def _img(image: U8) -> str:
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(_encoded(image, ".jpg")).decode()}">'


def _encoded(image: U8, suffix: str) -> bytes:
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def _u8(image: F32) -> U8:
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def psnr(photo: U8, shown: U8, valid: Bools) -> float:
    """Returns the peak signal-to-noise ratio [dB] of images (H, W, 3) over `valid` pixels (H, W); 100 when equal."""
    error = ((photo[valid].astype(float) - shown[valid]) ** 2).mean() / 255**2
    return -10 * math.log10(max(float(error), 1e-10))


def ssim(photo: U8, shown: U8, valid: Bools) -> float:
    """Returns the structural similarity, 1 when equal.

    Windows near invalid pixels see the photo on both sides of the border.
    """
    from skimage.metrics import structural_similarity

    filled = np.where(valid[..., None], shown, photo)
    _, similarity = structural_similarity(
        photo, filled, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )  # fmt: skip
    return float(similarity[valid].mean())
