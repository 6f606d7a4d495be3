"""This benchmark counts images of the GPU renderer per second: `python -m benchmarks.twin.gpu`.

    camera poses in CPU memory ─► GPU ─► splats rendered, batch of C cameras ─► images as bytes in CPU memory

Wall time of the whole way, after a warm-up, because that is what a learner on the same GPU would wait for. Beside it
stands how much of the GPU's copy bandwidth the least traffic takes: every splat read once per batch, every pixel
written once.
"""

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.measure import hardware, spread, table
from benchmarks.twin.render import scene_of
from protos.errors import InputError
from twin import render
from twin.camera import Camera, look_at
from twin.scene import SideCamera
from twin.splats import Splats

if TYPE_CHECKING:
    from twin.render.gsplat_backend import Uploaded

PX, SPLATS = 256, 20_000
BATCHES = (1, 16, 64)
"""Numbers of cameras drawn together."""
ROUNDS, SLICE_S = 5, 1.0
COPY_BYTES = 1 << 30
"""Bytes copied on the GPU to find its bandwidth; a copy reads and writes."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The figures of one batch size."""

    cameras: int
    frames_per_s: list[float]  # one per round
    least_bytes: int  # per batch
    copy_bytes_per_s: float

    @property
    def share(self) -> float:
        """Returns the share of the copy bandwidth that the least traffic takes at the median rate."""
        batches_per_s = float(np.median(self.frames_per_s)) / self.cameras
        return batches_per_s * self.least_bytes / self.copy_bytes_per_s


def figures() -> list[Figure]:
    """Measures one figure per batch size. Raises `InputError` in one line on a machine where gsplat cannot draw."""
    obstacle = render.get("gsplat").obstacle()
    if obstacle is not None:
        raise InputError(obstacle)
    from twin.render.gsplat_backend import Uploaded

    scene = scene_of(SPLATS).static
    uploaded, bandwidth = Uploaded(scene), copy_bandwidth()
    return [
        Figure(
            cameras=count,
            frames_per_s=[_rate(uploaded, cameras_around(count)) for _ in range(ROUNDS)],
            least_bytes=least_bytes(scene, count),
            copy_bytes_per_s=bandwidth,
        )
        for count in BATCHES
    ]


def cameras_around(count: int) -> list[Camera]:
    """Returns cameras near the scene's own side camera, all looking at the table."""
    side, rng = SideCamera(), np.random.default_rng(0)
    eyes = np.asarray(side.eye) + rng.uniform(-0.1, 0.1, (count, 3))
    return [look_at(eye, at=(-0.5, 0, 0), fovy_deg=side.fovy_deg, px=PX) for eye in eyes]


def least_bytes(splats: Splats, cameras: int) -> int:
    """Returns the bytes that any renderer must move: splats in, float pixels (colour, alpha, depth) out, bytes back."""
    stored = sum(array.nbytes for array in vars(splats).values())
    return stored + cameras * PX * PX * (5 * 4 + 3)


def copy_bandwidth() -> float:
    """Returns the bytes per second that a copy on the GPU reads and writes; best of ten."""
    import torch

    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * COPY_BYTES / best


def _rate(uploaded: "Uploaded", cameras: list[Camera]) -> float:
    """Returns images per second, from poses to bytes in CPU memory."""
    uploaded.draw_bytes(cameras)
    frames, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < SLICE_S:
        uploaded.draw_bytes(cameras)
        frames += len(cameras)
    return frames / spent


def render_table() -> str:
    """Returns the figures as markdown."""
    import torch

    found = figures()
    rows = [(f.cameras, spread(f.frames_per_s), f"{100 * f.share:.2f} %") for f in found]
    head = f"{hardware()}, {torch.cuda.get_device_name()}, copies {found[0].copy_bytes_per_s / 1e9:,.0f} GB/s"
    columns = [f"cameras of {PX} x {PX}", "images per s", "least traffic over copy bandwidth"]
    return f"{head}\n\n{table(columns, rows)}"


def main() -> int:
    try:
        sys.stdout.write(render_table() + "\n")
    except InputError as error:
        sys.stderr.write(f"twinrl bench twin, GPU: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
