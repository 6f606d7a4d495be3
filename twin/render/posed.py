"""Moving splats at the poses of one slot, and their footprints in any camera."""

import numpy as np

from protos.schema import F32
from twin.render import kernels
from twin.render.kernels import View, Workspace
from twin.render.moving import MovingSplats
from twin.render.rasterizer import layer_of
from twin.render.shading import eyes_of, shade


class PosedSplats:
    """Buffers of one thread: one slot's splats at a time."""

    def __init__(self, moving: MovingSplats) -> None:
        self._body, self._first_wrist = moving.body, moving.first_wrist
        self._local = layer_of(moving.splats)
        means, covariances = np.empty_like(self._local.means), np.empty_like(self._local.covariances)
        self.layer = self._local._replace(means=means, covariances=covariances)
        """In the base frame; harmonics are still in the bodies' frames."""
        self._positions, self._rotations = np.zeros((1, 3), np.float32), np.zeros((1, 3, 3), np.float32)

    def __len__(self) -> int:
        return len(self._body)

    def pose(self, positions: F32, rotations: F32) -> None:
        """Moves every splat with its body: positions (bodies, 3), rotations (bodies, 3, 3) in the base frame."""
        self._positions, self._rotations = positions, rotations
        kernels.move(self._local, self._body, positions, rotations, self.layer)

    def footprints(self, view: View, width: int, height: int, work: Workspace, row: int, *, wrist: bool = False) -> int:
        """Appends the visible splats from `row` on, for the wrist camera only those near it; returns the new count."""
        first = self._first_wrist if wrist else 0
        count = kernels.project(self.layer, first, view, width, height, work, row)
        if self._local.sh.shape[1]:
            eyes = eyes_of(view, self._positions, self._rotations)
            shade(self._local, self._body, eyes, work, row, count)
        return count
