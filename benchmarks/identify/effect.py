"""Is identification worth it on arrival? The method up to RL in the twin, with it and without, on the same labs.

    scan ─► demonstrations of the arm ─┬─► of the twin ─────────► SFT ─► twin RL ─► tried on the arm
                                       └─► of the identified one ─► SFT ─► twin RL ─► tried on the arm

Both share the arm's demonstrations, and every policy of a lab meets the same starts.
"""

from dataclasses import replace

from benchmarks.learning import cells
from benchmarks.learning.cells import Unit
from benchmarks.measure import table
from benchmarks.method.run import Job, MethodBench, carry_out, plan
from benchmarks.method.units import starts, tried, twin_demonstrations

COLUMNS = ("lab", "policy", "twin as scanned: A", "B", "identified: A", "B", "of, per region")
POLICIES = {"sft_ab": "fine-tuned on A and B", "twin_rl": "after RL in the twin"}
WAYS = ("scanned", "identified")


def effect(bench: MethodBench, *, measure: bool) -> str:
    """Measures what was not measured before, and returns the table of what is there."""
    jobs = {("scan", 0): Job(title="scan", unit=_scan(bench))}
    for lab in bench.labs:
        jobs |= {(name, lab): job for name, job in jobs_of(bench, lab).items()}
    if measure:
        carry_out(_needed(jobs))
    return table(COLUMNS, [_row(jobs, lab, policy) for lab in bench.labs for policy in POLICIES])


def _scan(bench: MethodBench) -> Unit:
    return cells.scan(plan(bench, bench.labs[0]), synthetic=bench.quick)


def jobs_of(bench: MethodBench, lab: int) -> dict[str, Job]:
    """Returns the work of one lab in its order."""
    of_lab = plan(bench, lab)
    common = starts(of_lab, _scan(bench))
    jobs = {"arm": Job(title=f"demonstrations of the arm, lab {lab}", unit=common.shown[0])}
    for way in WAYS:
        own = of_lab if way == WAYS[0] else replace(of_lab, identify=True, runs=of_lab.runs / way)
        shown = twin_demonstrations(own, common.shown[0])
        tuned = cells.sft(own, shown)
        units = {"sft_ab": tuned, "twin_rl": cells.twin_rl(own, tuned, "demo", short=False)}
        jobs[f"{way}-twin"] = Job(title=f"demonstrations of the twin, {way}, lab {lab}", unit=shown)
        for policy, unit in units.items():
            title, path = f"{policy}, {way}, lab {lab}", bench.results / bench.task / f"lab{lab}-{policy}-{way}.json"
            jobs[f"{way}-{policy}"] = Job(title=title, unit=unit)
            on_arm = tried(own, unit, bench.rollouts)
            jobs[f"{way}-{policy}-on-arm"] = Job(title=f"{title}, on the arm", unit=on_arm, result=path)
    return jobs


def _needed(jobs: dict[tuple[str, int], Job]) -> dict[tuple[str, int], Job]:
    """Returns the jobs of the labs of which a result is missing."""
    missing = {lab for (_, lab), job in jobs.items() if job.result is not None and not job.is_done}
    return {key: job for key, job in jobs.items() if key[1] in missing or (key[0] == "scan" and missing)}


def _row(jobs: dict[tuple[str, int], Job], lab: int, policy: str) -> list[str]:
    row, rollouts = [str(lab), POLICIES[policy]], ""
    for way in WAYS:
        found = jobs[f"{way}-{policy}-on-arm", lab].found()
        point = found.points[0] if found is not None else None
        row += ["–" if point is None else str(point.successes[region]) for region in ("A", "B")]
        rollouts = rollouts if point is None else str(point.rollouts)
    return [*row, rollouts or "–"]
