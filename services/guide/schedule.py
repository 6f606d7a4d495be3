"""This module chooses initial configurations, without a network: success map, S_target, draw.

    SR(cell) = (k · gap · SR_twin + real successes) / (k + real episodes)
    gap      = min(1, (g + real successes elsewhere) / (g + the successes that the twin predicts for those episodes))

SR is the mean of a Beta distribution whose prior is the twin evaluation, worth k real episodes. The twin's rates are
scaled by how well they predict the arm's in the other cells (gap), so that a cell which the arm has not tried does not
count as mastered where other cells fall short. Without real episodes SR is SR_twin, as in the paper; a cell the twin
never tried counts as 0.5. Real outcomes older than the last `real_window` of a cell are dropped: an older policy made
them. An outcome whose weights are a versions old counts 2^(−a / half_life), so that S_target follows the policy: in the
twin against the newest outcome of its cell, on the arm against the newest version anybody reported. Where nothing new
comes, as without scanning twins, the map so stays as it is.

A draw is uniform over all cells with probability `explore`; otherwise it takes a cell of S_target = {cells with SR <
tau} with probability proportional to 1 − SR (arXiv 2602.09023 gives the set and not the weights).

Scanning twins ask for starts too. A pass gives them every cell `rollouts` times, in random order; the next pass begins
`refresh` versions after the one before, or after the evaluation that stands for it.

A report has an id; the newest `REMEMBERED_REPORTS` ids are part of the state, so that a report repeated because its
answer was lost counts once, also across a restart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from protos.errors import InputError
from protos.schema import Configuration, Outcome
from protos.settings import to_json
from protos.space import ConfigurationSpace

REMEMBERED_REPORTS = 1024
MAX_REPORT_ID = 64
"""Characters."""
TWIN_VERSIONS = 16
"""Newest versions whose outcomes in the twin are kept, per cell."""
EXPLORE = 0.2
MOST_REFRESH, MOST_ROLLOUTS = 10_000, 100


@dataclass(frozen=True, kw_only=True)
class GuideSettings:
    """The settings of the choice, which the paper leaves open."""

    space: ConfigurationSpace
    regions: tuple[str, ...] = ()
    """Regions that the arm is sent to; empty: all."""
    tau: float = 0.8
    """Cells whose success rate is below this are targets."""
    explore: float = EXPLORE
    """Share of draws that are uniform over all cells."""
    twin_weight: float = 4.0
    """k: real episodes that the twin evaluation of a cell counts for."""
    gap_weight: float = 4.0
    """g: successes that the twin predicts and the arm misses, which halve the twin's rates in other cells."""
    real_window: int = 8
    """Newest real outcomes that count, per cell."""
    half_life: float = 0.0
    """Versions after which an outcome counts half; 0 forgets nothing."""
    refresh: int = 8
    """Versions from the beginning of one pass of the scanning twins to the next."""
    rollouts: int = 1
    """Rollouts of a pass in every cell."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.space.cells < 1:
            raise InputError(f"the space has {self.space.cells} cells: it needs a region, a row and a column")
        if unknown := [name for name in self.regions if name not in self.space.regions]:
            raise InputError(f"region {unknown[0]!r}: choose among {', '.join(self.space.regions)}")
        for name, value in (("tau", self.tau), ("explore", self.explore)):
            if not 0.0 <= value <= 1.0:
                raise InputError(f"{name}={value}: choose a number from 0 to 1")
        for name in ("twin_weight", "gap_weight"):
            if not getattr(self, name) > 0.0:
                raise InputError(f"{name}={getattr(self, name)}: choose a number above 0")
        if self.real_window < 1:
            raise InputError(f"real_window={self.real_window}: choose 1 or more episodes")
        if not 0.0 <= self.half_life < math.inf:
            raise InputError(f"half_life={self.half_life}: choose a number of versions, or 0 to forget nothing")
        for name, most in (("refresh", MOST_REFRESH), ("rollouts", MOST_ROLLOUTS)):
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"{name}={getattr(self, name)}: choose 1 to {most}")


@dataclass(frozen=True, kw_only=True)
class CellSuccess:
    """The outcomes kept of one cell. `rate` is SR(cell), in which old ones count less; `target`: it is in S_target."""

    cell: int
    region: str
    twin_successes: int
    twin_rollouts: int
    real_successes: int
    real_episodes: int
    rate: float
    target: bool
    x_min: float  # metres, base frame
    x_max: float
    y_min: float
    y_max: float
    twin_version: int
    """Newest weights that the twin tried there, -1 for none."""


@dataclass
class _Record:
    twin: dict[int, tuple[int, int]] = field(default_factory=dict)  # version -> successes, rollouts
    real: list[tuple[int, int]] = field(default_factory=list)  # 1 for a success, its version; oldest first

    @property
    def newest(self) -> int:
        return max(self.twin, default=-1)

    def tried(self) -> tuple[int, int]:
        """Returns all kept successes and rollouts of the twin."""
        return sum(won for won, _ in self.twin.values()), sum(rollouts for _, rollouts in self.twin.values())

    def add_scan(self, won: bool, version: int) -> None:
        before, rollouts = self.twin.get(version, (0, 0))
        self.twin[version] = (before + won, rollouts + 1)
        if len(self.twin) > TWIN_VERSIONS:
            del self.twin[min(self.twin)]


def choose(cells: Sequence[CellSuccess], rng: np.random.Generator, explore: float) -> tuple[CellSuccess, int]:
    """Draws a cell of a map; returns it with the number of cells it was drawn from, 0 for a draw from all."""
    targets = [cell for cell in cells if cell.target]
    if not targets or rng.random() < explore:
        return cells[int(rng.integers(len(cells)))], 0
    weights = np.array([1.0 - cell.rate for cell in targets])
    return targets[int(rng.choice(len(targets), p=weights / weights.sum()))], len(targets)


class Schedule:
    """Keeps the success map and draws from it. Not for several threads at once."""

    def __init__(self, settings: GuideSettings) -> None:
        self.settings = settings
        self._rng = np.random.default_rng(settings.seed)
        self._records = [_Record() for _ in range(settings.space.cells)]
        self._reported: dict[str, None] = {}  # ids, oldest first
        self._newest = -1  # version
        self._passed: int | None = None  # version at which the newest pass of the scans began
        self._left: list[int] = []  # cells that this pass still has to try, the next one last
        self._counts = {"scans": 0, "episodes": 0}

    def draw(self) -> tuple[Configuration, str]:
        """Returns the next initial configuration and the reason for it, in one line."""
        regions = self.settings.regions
        cells = [cell for cell in self.success_map() if not regions or cell.region in regions]
        chosen, among = choose(cells, self._rng, self.settings.explore)
        if among:
            why = f"one of {among} cells below {self.settings.tau:g}"
        else:
            any_target = any(cell.target for cell in cells)
            why = "uniform draw" if any_target else f"uniform draw, no cell is below {self.settings.tau:g}"
        return self.settings.space.sample(self._rng, cell=chosen.cell), f"{_describe(chosen)}; {why}"

    def next_scan(self) -> Configuration | None:
        """Returns the next start for a scanning twin; None while no cell is due."""
        settings = self.settings
        if not self._left:
            if self._passed is not None and self._newest - self._passed < settings.refresh:
                return None
            self._passed = self._newest
            cells = np.repeat(np.arange(settings.space.cells), settings.rollouts)
            self._left = [int(cell) for cell in self._scan_rng().permutation(cells)]
        cell = self._left.pop()
        return settings.space.sample(self._scan_rng(), cell=cell)

    def _scan_rng(self) -> np.random.Generator:
        """Returns a stream of its own for every start: scans do not change what the arm is given."""
        assert self._passed is not None
        return np.random.default_rng([self.settings.seed, max(self._passed, -1) + 1, len(self._left)])

    def report(
        self,
        configuration: Configuration,
        outcome: Outcome,
        human_steps: int,
        *,
        report_id: str,
        version: int = -1,
        twin: bool = False,
    ) -> bool:
        """Counts an episode of the arm, or of a scanning `twin`; returns False when `report_id` was counted before.

        An episode with a takeover is a failure of the policy. Starts outside the grid (cell -1) change
        nothing. Raises InputError for an unknown cell, an episode that still runs, or a missing or overlong id.
        """
        if not 1 <= len(report_id) <= MAX_REPORT_ID:
            raise InputError(f"report id of {len(report_id)} characters: 1 to {MAX_REPORT_ID}")
        if outcome in (Outcome.RUNNING, Outcome.STOPPED, Outcome.UNKNOWN):
            raise InputError(f"outcome {outcome.value!r}: report an episode when it is over and its end is known")
        record = None if configuration.cell == -1 else self._record(configuration.cell)
        if report_id in self._reported:
            return False
        self._reported[report_id] = None
        if len(self._reported) > REMEMBERED_REPORTS:
            del self._reported[next(iter(self._reported))]
        self._hear(version)
        self._counts["scans" if twin else "episodes"] += 1
        won = outcome is Outcome.SUCCESS and human_steps == 0
        if record is not None and twin:
            record.add_scan(won, max(version, -1))
        elif record is not None:
            record.real.append((int(won), max(version, -1)))
            del record.real[: -self.settings.real_window]
        return True

    def set_success(self, evaluation: Mapping[int, tuple[int, int]], *, version: int = -1) -> None:
        """Replaces the twin's (successes, rollouts) of the cells named, except where a newer version was tried.

        It stands for a pass of the scanning twins with `version`. Raises InputError and changes nothing.
        """
        for cell, (successes, rollouts) in evaluation.items():
            self._record(cell)
            if not 0 <= successes <= rollouts:
                raise InputError(f"cell {cell}: {successes} successes in {rollouts} rollouts")
        for cell, tried in evaluation.items():
            record = self._record(cell)
            if record.newest <= version or version < 0:
                record.twin = {max(version, -1): tried}
        self._hear(version)
        if version >= 0:
            self._passed = version if self._passed is None else max(self._passed, version)

    def _hear(self, version: int) -> None:
        """Notes a version; a pass that began before any was known is of the first."""
        if self._passed == -1:
            self._passed = version
        self._newest = max(self._newest, version)

    def success_map(self) -> list[CellSuccess]:
        """Returns all cells in order."""
        twins = [self._twin_rate(record) for record in self._records]
        real = [self._real(record) for record in self._records]
        tried = [(twin, *own) for twin, own in zip(twins, real, strict=True) if twin is not None]
        borne_out = self.settings.gap_weight + sum(won for _, won, _ in tried)
        promised = self.settings.gap_weight + sum(episodes * twin for twin, _, episodes in tried)
        cells = []
        for cell, (twin, (won, episodes)) in enumerate(zip(twins, real, strict=True)):
            prior = 0.5
            if twin is not None:
                prior = twin * min(1.0, (borne_out - won) / (promised - episodes * twin))
            weight = self.settings.twin_weight
            cells.append(self._described(cell, (weight * prior + won) / (weight + episodes)))
        return cells

    def targets(self) -> dict[str, Any]:
        """Returns S_target in short, as JSON values: counts since the start, and cells and success by region."""
        regions: dict[str, dict[str, float]] = {}
        for cell in self.success_map():
            region = regions.setdefault(cell.region, {"cells": 0, "targets": 0, "success": 0.0})
            region["success"] = (region["success"] * region["cells"] + cell.rate) / (region["cells"] + 1)
            region["cells"] += 1
            region["targets"] += cell.target
        return {"version": self._newest, **self._counts, "regions": regions}

    def state(self) -> dict[str, Any]:
        """Returns everything that a resumed run needs, as JSON values."""
        return {
            "space": to_json(self.settings.space),
            "twin": [[[version, *tried] for version, tried in record.twin.items()] for record in self._records],
            "real": [[list(outcome) for outcome in record.real] for record in self._records],
            "rng": self._rng.bit_generator.state,
            "reported": list(self._reported),
            "newest": self._newest,
            "passed": self._passed,
            "left": self._left,
            "counts": self._counts,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up a `state()`. Raises InputError when it is of another configuration space."""
        if state["space"] != to_json(self.settings.space):
            raise InputError("the saved success map is of another configuration space; give another --state file")
        rng = np.random.default_rng()
        rng.bit_generator.state = state["rng"]
        records = [
            _Record(
                {int(version): (int(won), int(rollouts)) for version, won, rollouts in twin},
                [(int(won), int(version)) for won, version in real],
            )
            for twin, real in zip(state["twin"], state["real"], strict=True)
        ]
        newest, passed, left = int(state["newest"]), state["passed"], [int(cell) for cell in state["left"]]
        counts = {name: int(state["counts"][name]) for name in self._counts}
        self._records, self._rng, self._newest, self._passed = records, rng, newest, passed
        self._left, self._counts = left, counts
        self._reported = dict.fromkeys(map(str, state["reported"]))

    def _record(self, cell: int) -> _Record:
        if not 0 <= cell < len(self._records):
            raise InputError(f"cell {cell}: this space has cells 0 to {len(self._records) - 1}")
        return self._records[cell]

    def _weight(self, version: int, newest: int) -> float:
        """Returns how much an outcome of a version counts beside one of the newest; one without a version: fully."""
        if not self.settings.half_life or version < 0:
            return 1.0
        return float(0.5 ** (max(0, newest - version) / self.settings.half_life))

    def _twin_rate(self, record: _Record) -> float | None:
        """Returns the twin's rate in a cell, None where it never tried."""
        weighed = [(self._weight(version, record.newest), *tried) for version, tried in record.twin.items()]
        rollouts = sum(weight * count for weight, _, count in weighed)
        return sum(weight * won for weight, won, _ in weighed) / rollouts if rollouts else None

    def _real(self, record: _Record) -> tuple[float, float]:
        """Returns the arm's successes and episodes in a cell, weighed."""
        weights = [self._weight(version, self._newest) for _, version in record.real]
        return sum(w * won for w, (won, _) in zip(weights, record.real, strict=True)), sum(weights)

    def _described(self, cell: int, rate: float) -> CellSuccess:
        record = self._records[cell]
        region, box = self.settings.space.cell_box(cell)
        successes, rollouts = record.tried()
        return CellSuccess(
            cell=cell,
            region=region,
            twin_successes=successes,
            twin_rollouts=rollouts,
            real_successes=sum(won for won, _ in record.real),
            real_episodes=len(record.real),
            rate=rate,
            target=rate < self.settings.tau,
            x_min=box.x[0],
            x_max=box.x[1],
            y_min=box.y[0],
            y_max=box.y[1],
            twin_version=record.newest,
        )


def _describe(cell: CellSuccess) -> str:
    twin = f"twin {cell.twin_successes}/{cell.twin_rollouts}"
    real = f", real {cell.real_successes}/{cell.real_episodes}" if cell.real_episodes else ""
    return f"cell {cell.cell} (region {cell.region}): {twin}{real}"
