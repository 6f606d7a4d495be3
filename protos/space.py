"""This module describes the space of initial configurations: regions A and B, the grid over them, sampling.

    region A (demonstrated)      region B (never demonstrated on the real arm)
    +----+----+----+----+        +----+----+----+----+
    |  0 |  1 |  2 |  3 |        | 20 | 21 | 22 | 23 |     columns along y, rows along x
    +----+----+----+----+        +----+----+----+----+
    |  4 | ...

One grid per region over the manipulated object's start; a cell's index tags every transition, the guide's success map
and the report's heat-maps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from protos.errors import InputError
from protos.schema import Configuration


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box holds the ranges of a pose in the base frame [m, rad]; a range of zero width is a constant."""

    x: tuple[float, float]
    y: tuple[float, float]
    z: tuple[float, float] = (0.0, 0.0)
    yaw: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for axis in ("x", "y", "z", "yaw"):
            low, high = getattr(self, axis)
            if not low <= high:
                raise InputError(f"Box.{axis}=({low}, {high}): the first number must not exceed the second")

    def sample(self, rng: np.random.Generator) -> tuple[float, float, float, float]:
        x, y, z, yaw = (float(rng.uniform(*limits)) for limits in (self.x, self.y, self.z, self.yaw))
        return x, y, z, yaw


@dataclass(frozen=True, kw_only=True)
class ConfigurationSpace:
    """The initial state distribution of a task. `manipulated` names the body whose start defines region and cell."""

    manipulated: str
    regions: Mapping[str, Box]
    others: Mapping[str, Box] = field(default_factory=dict)
    """Boxes shared by all regions: targets, and the tool's start under the name "tool"."""
    rows: int = 5
    columns: int = 4

    @property
    def cells(self) -> int:
        """Returns the number of cells over all regions."""
        return len(self.regions) * self.rows * self.columns

    def cell_box(self, cell: int) -> tuple[str, Box]:
        """Returns region and box of a cell."""
        if not 0 <= cell < self.cells:
            raise InputError(f"cell {cell}: this space has cells 0 to {self.cells - 1}")
        per_region = self.rows * self.columns
        name = list(self.regions)[cell // per_region]
        row, column = divmod(cell % per_region, self.columns)
        region = self.regions[name]
        x0, y0 = region.x[0], region.y[0]
        dx = (region.x[1] - x0) / self.rows
        dy = (region.y[1] - y0) / self.columns
        x, y = (x0 + row * dx, x0 + (row + 1) * dx), (y0 + column * dy, y0 + (column + 1) * dy)
        return name, Box(x=x, y=y, z=region.z, yaw=region.yaw)

    def cell_of(self, x: float, y: float) -> int:
        """Returns the cell that holds a start position of the manipulated body, -1 outside every region."""
        for index, region in enumerate(self.regions.values()):
            row = _slot(x, region.x, self.rows)
            column = _slot(y, region.y, self.columns)
            if row >= 0 and column >= 0:
                return (index * self.rows + row) * self.columns + column
        return -1

    def sample(self, rng: np.random.Generator, *, region: str | None = None, cell: int | None = None) -> Configuration:
        """Samples uniformly from a cell, a region, or (neither given) a region drawn at random."""
        if cell is not None:
            region, box = self.cell_box(cell)
        else:
            region = str(rng.choice(list(self.regions))) if region is None else region
            if region not in self.regions:
                raise InputError(f"region {region!r}: choose one of {', '.join(self.regions)}")
            box = self.regions[region]
        pose = box.sample(rng)
        poses = {self.manipulated: pose} | {name: other.sample(rng) for name, other in self.others.items()}
        return Configuration(region=region, cell=self.cell_of(pose[0], pose[1]), poses=poses)

    def spread(self, rng: np.random.Generator, *, region: str, rollouts: int) -> list[Configuration]:
        """Samples `rollouts` configurations spread evenly over a region's cells, for evaluations."""
        per_region = self.rows * self.columns
        first = list(self.regions).index(region) * per_region
        everywhere = np.repeat(np.arange(per_region), rollouts // per_region)
        rest = rng.choice(per_region, rollouts % per_region, replace=False)
        return [self.sample(rng, cell=first + int(cell)) for cell in np.sort(np.concatenate([everywhere, rest]))]


def _slot(value: float, limits: tuple[float, float], count: int) -> int:
    low, high = limits
    if not low <= value <= high:
        return -1
    return min(int((value - low) / max(high - low, 1e-12) * count), count - 1)
