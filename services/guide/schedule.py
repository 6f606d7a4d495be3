"""This module chooses initial configurations, without a network: success map, S_target, draw.

    SR(cell) = (k · gap · SR_twin + real successes) / (k + real episodes)
    gap      = min(1, (g + real successes elsewhere) / (g + the successes that the twin predicts for those episodes))

SR is the mean of a Beta distribution whose prior is the twin evaluation, worth k real episodes. The twin's rates are
scaled by how well they predict the arm's in the other cells (gap), so that a cell which the arm has not tried does not
count as mastered where other cells fall short. Without real episodes SR is SR_twin, as in the paper; a cell the twin
never tried counts as 0.5. Real outcomes older than the last `real_window` of a cell are dropped: an older policy made
them. A draw is uniform over all cells with probability `explore`; otherwise it takes a cell of S_target = {cells
with SR < tau} with probability proportional to 1 − SR (arXiv 2602.09023 gives the set and not the weights).

A report has an id; the newest `REMEMBERED_REPORTS` ids are part of the state, so that a report repeated because its
answer was lost counts once, also across a restart.
"""

from collections.abc import Mapping
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


@dataclass(frozen=True, kw_only=True)
class GuideSettings:
    """The settings of the choice, which the paper leaves open."""

    space: ConfigurationSpace
    tau: float = 0.8
    """Cells whose success rate is below this are targets."""
    explore: float = 0.2
    """Share of draws that are uniform over all cells."""
    twin_weight: float = 4.0
    """k: real episodes that the twin evaluation of a cell counts for."""
    gap_weight: float = 4.0
    """g: successes that the twin predicts and the arm misses, which halve the twin's rates in other cells."""
    real_window: int = 8
    """Newest real outcomes that count, per cell."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.space.cells < 1:
            raise InputError(f"the space has {self.space.cells} cells: it needs a region, a row and a column")
        for name, value in (("tau", self.tau), ("explore", self.explore)):
            if not 0.0 <= value <= 1.0:
                raise InputError(f"{name}={value}: choose a number from 0 to 1")
        for name in ("twin_weight", "gap_weight"):
            if not getattr(self, name) > 0.0:
                raise InputError(f"{name}={getattr(self, name)}: choose a number above 0")
        if self.real_window < 1:
            raise InputError(f"real_window={self.real_window}: choose 1 or more episodes")


@dataclass(frozen=True, kw_only=True)
class CellSuccess:
    """The outcomes in one cell. `rate` is SR(cell); `target` is true for a cell in S_target."""

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


@dataclass
class _Record:
    twin: tuple[int, int] = (0, 0)  # successes, rollouts
    real: list[int] = field(default_factory=list)  # 1 for a success, oldest first


class Schedule:
    """Keeps the success map and draws from it. Not for several threads at once."""

    def __init__(self, settings: GuideSettings) -> None:
        self.settings = settings
        self._rng = np.random.default_rng(settings.seed)
        self._records = [_Record() for _ in range(settings.space.cells)]
        self._reported: dict[str, None] = {}  # ids, oldest first

    def draw(self) -> tuple[Configuration, str]:
        """Returns the next initial configuration and the reason for it, in one line."""
        cells = self.success_map()
        targets = [cell for cell in cells if cell.target]
        if not targets or self._rng.random() < self.settings.explore:
            chosen = cells[self._rng.integers(len(cells))]
            why = "uniform draw" if targets else f"uniform draw, no cell is below {self.settings.tau:g}"
        else:
            weights = np.array([1.0 - cell.rate for cell in targets])
            chosen = targets[self._rng.choice(len(targets), p=weights / weights.sum())]
            why = f"one of {len(targets)} cells below {self.settings.tau:g}"
        return self.settings.space.sample(self._rng, cell=chosen.cell), f"{_describe(chosen)}; {why}"

    def report(self, configuration: Configuration, outcome: Outcome, human_steps: int, *, report_id: str) -> bool:
        """Counts a real episode; returns False when `report_id` was counted before.

        An episode with a takeover is a failure of the policy. Starts outside the grid (cell -1) change
        nothing. Raises InputError for an unknown cell, an episode that still runs, or a missing or overlong id.
        """
        if not 1 <= len(report_id) <= MAX_REPORT_ID:
            raise InputError(f"report id of {len(report_id)} characters: 1 to {MAX_REPORT_ID}")
        if outcome in (Outcome.RUNNING, Outcome.UNKNOWN):
            raise InputError(f"outcome {outcome.value!r}: report an episode when it is over and its end is known")
        record = None if configuration.cell == -1 else self._record(configuration.cell)
        if report_id in self._reported:
            return False
        self._reported[report_id] = None
        if len(self._reported) > REMEMBERED_REPORTS:
            del self._reported[next(iter(self._reported))]
        if record is not None:
            record.real.append(int(outcome is Outcome.SUCCESS and human_steps == 0))
            del record.real[: -self.settings.real_window]
        return True

    def set_success(self, evaluation: Mapping[int, tuple[int, int]]) -> None:
        """Replaces the twin's (successes, rollouts) of the cells named. Raises InputError and changes nothing."""
        for cell, (successes, rollouts) in evaluation.items():
            self._record(cell)
            if not 0 <= successes <= rollouts:
                raise InputError(f"cell {cell}: {successes} successes in {rollouts} rollouts")
        for cell, (successes, rollouts) in evaluation.items():
            self._record(cell).twin = (successes, rollouts)

    def success_map(self) -> list[CellSuccess]:
        """Returns all cells in order."""
        return [self._success(cell) for cell in range(len(self._records))]

    def state(self) -> dict[str, Any]:
        """Returns everything that a resumed run needs, as JSON values."""
        return {
            "space": to_json(self.settings.space),
            "twin": [list(record.twin) for record in self._records],
            "real": [record.real for record in self._records],
            "rng": self._rng.bit_generator.state,
            "reported": list(self._reported),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up a `state()`. Raises InputError when it is of another configuration space."""
        if state["space"] != to_json(self.settings.space):
            raise InputError("the saved success map is of another configuration space; give another --state file")
        rng = np.random.default_rng()
        rng.bit_generator.state = state["rng"]
        self._records = [
            _Record((int(successes), int(rollouts)), [int(won) for won in real])
            for (successes, rollouts), real in zip(state["twin"], state["real"], strict=True)
        ]
        self._reported = dict.fromkeys(map(str, state["reported"]))
        self._rng = rng

    def _record(self, cell: int) -> _Record:
        if not 0 <= cell < len(self._records):
            raise InputError(f"cell {cell}: this space has cells 0 to {len(self._records) - 1}")
        return self._records[cell]

    def _success(self, cell: int) -> CellSuccess:
        record = self._records[cell]
        successes, rollouts = record.twin
        weight = self.settings.twin_weight
        region, box = self.settings.space.cell_box(cell)
        prior = self._gap(without=record) * successes / rollouts if rollouts else 0.5
        rate = (weight * prior + sum(record.real)) / (weight + len(record.real))
        return CellSuccess(
            cell=cell,
            region=region,
            twin_successes=successes,
            twin_rollouts=rollouts,
            real_successes=sum(record.real),
            real_episodes=len(record.real),
            rate=rate,
            target=rate < self.settings.tau,
            x_min=box.x[0],
            x_max=box.x[1],
            y_min=box.y[0],
            y_max=box.y[1],
        )

    def _gap(self, *, without: _Record) -> float:
        """Returns the ratio of real to predicted successes over all cells but one, 0..1."""
        real = predicted = self.settings.gap_weight
        for record in self._records:
            successes, rollouts = record.twin
            if rollouts and record is not without:
                real += sum(record.real)
                predicted += len(record.real) * successes / rollouts
        return min(1.0, real / predicted)


def _describe(cell: CellSuccess) -> str:
    twin = f"twin {cell.twin_successes}/{cell.twin_rollouts}"
    real = f", real {cell.real_successes}/{cell.real_episodes}" if cell.real_episodes else ""
    return f"cell {cell.cell} (region {cell.region}): {twin}{real}"
