"""This module measures what double buffering is worth: fleets that differ in `groups` alone, one after the other, in
one run.

Steps per second and how much of the machine the fleet kept busy, on as many cores as there are.
"""

from collections.abc import Sequence

from benchmarks.measure import table
from benchmarks.twin.fleet import FleetPlan, measure

GROUPS = (1, 2)


def group_table(*, sizes: Sequence[tuple[int, int]], seconds: float) -> str:
    """A row per (actors, twins of each), with one group and with two."""
    rows = []
    for actors, twins in sizes:
        found = [
            measure(FleetPlan(actors=actors, twins=twins, seconds=seconds, kills=0, groups=groups)) for groups in GROUPS
        ]
        rates = [one.steps / one.seconds for one in found]
        busy = [one.cpu_s / one.seconds for one in found]
        per_cpu = [one.steps / one.cpu_s for one in found]
        rows.append(
            (
                actors,
                twins,
                *(f"{rate:,.0f}" for rate in rates),
                f"{rates[1] / rates[0]:.2f}",
                *(f"{cores:.2f}" for cores in busy),
                *(f"{rate:,.0f}" for rate in per_cpu),
            )
        )
    columns = ["actors", "twins each"]
    for what in ("steps/s", "cores busy", "steps/CPU s"):
        columns += [f"{what}, 1 group", f"{what}, 2 groups"]
        if what == "steps/s":
            columns.append("ratio")
    return table(columns, rows)
