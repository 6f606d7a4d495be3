"""This module reads the numbers of one episode of a LeRobotDataset, and the times of its rows.

Stamps are the recorder's word on when a row was seen: rows whose stamps go back, jump, or come at another rate than
info.json says are no episode at a rate, and raise CorruptData with the row.
"""

import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from learner.datasets.lerobot import layout
from learner.datasets.settings import MAX_HZ
from protos.errors import CorruptData
from protos.schema import F64

_GAP_PERIODS = 2.5
"""Largest time between two rows: one row may be missing, and stamps may come late."""
_RATE_FACTOR = 1.25
_RATE_ROWS = 4
"""Rows from which on their stamps tell a rate."""


def numbers(table: pa.Table, name: str) -> NDArray[np.float32]:
    """Returns a column of lists as (rows, numbers). Raises CorruptData for lists of several lengths and for NaN."""
    flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    if len(flat) % len(table):
        raise CorruptData(f"{name}: {len(flat)} numbers in {len(table)} rows")
    found: NDArray[np.float32] = flat.reshape(len(table), -1)
    bad = np.argwhere(~np.isfinite(found))
    if len(bad):
        row, column = bad[0]
        raise CorruptData(f"{name}: {found[row, column]} in row {row}, number {column}")
    return found


def flat(table: pa.Table, name: str) -> NDArray[Any]:
    """Returns the values of a column, those of all lists in one row."""
    column = table[name].combine_chunks()
    if pa.types.is_nested(column.type):
        column = column.flatten()
    return np.asarray(column.to_numpy(zero_copy_only=False))


def optional(table: pa.Table, name: str) -> NDArray[Any] | None:
    """Returns a column of one number or flag per row, None where the table lacks it. Raises CorruptData for NaN."""
    if name not in table.column_names:
        return None
    values = flat(table, name)
    if len(values) != len(table):
        raise CorruptData(f"{name}: {len(values)} values in {len(table)} rows")
    if values.dtype.kind == "O":
        raise CorruptData(f"{name}: no value in row {next(row for row, each in enumerate(values) if each is None)}")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise CorruptData(f"{name}: {values[bad[0]]} in row {bad[0]}")
    return values


def stated_rate(fps: object) -> float | None:
    """Returns the rate that info.json gives as a number or a text; None where it gives none."""
    try:
        rate = float(fps) if isinstance(fps, int | float | str) and not isinstance(fps, bool) else 0.0
    except (ValueError, OverflowError):
        return None
    return rate if 0 < rate <= MAX_HZ else None


def stamped_rate(table: pa.Table) -> float | None:
    """Returns the rate that the stamps of an episode tell; None where there are too few, or none."""
    stamps = optional(table, layout.TIMESTAMP)
    if stamps is None or len(stamps) < _RATE_ROWS:
        return None
    steps = np.diff(stamps.astype(np.float64))
    period = float(steps[steps <= _GAP_PERIODS * np.median(steps)].mean())
    return float(f"{1 / period:.4g}") if 1 / MAX_HZ <= period < math.inf else None


def row_times(table: pa.Table, hz: float | None) -> F64:
    """Returns the times (T + 1,) [s] of the rows and of the end of the last one. Raises CorruptData."""
    stamps = optional(table, layout.TIMESTAMP)
    period = 1.0 / (hz or 1.0)
    if stamps is None:
        return np.asarray(np.arange(len(table) + 1) * period, np.float64)
    times = stamps.astype(np.float64)
    steps = np.diff(times)
    back = np.flatnonzero(steps <= 0)
    if len(back):
        row = back[0]
        raise CorruptData(f"timestamp: goes back from {times[row]:.3f} s to {times[row + 1]:.3f} s at row {row + 1}")
    if hz is not None:
        _check_steps(times, steps, hz)
    return np.append(times, times[-1] + period)


def _check_steps(times: F64, steps: F64, hz: float) -> None:
    """Raises CorruptData for stamps of another rate than `hz`, or with a gap."""
    far = steps > _GAP_PERIODS / hz
    if len(times) >= _RATE_ROWS and (far.all() or not far.any()):
        found = 1.0 / steps.mean()
        if not hz / _RATE_FACTOR < found < hz * _RATE_FACTOR:
            raise CorruptData(f"timestamp: rows come at {found:.4g} Hz, info.json (fps) or the settings say {hz:g} Hz")
    if far.any():
        row = int(far.argmax())
        raise CorruptData(
            f"timestamp: jumps from {times[row]:.3f} s to {times[row + 1]:.3f} s at row {row + 1}, "
            f"{1 / hz:.3g} s are expected"
        )
