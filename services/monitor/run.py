"""This module reads the state of each process of a run, and who waits for whom, from the run folder alone.

    owner.json ─────────────┐ whether it runs, here and not where it was copied from
    processes.json ─────────┤ processes started, restarts, exit codes (the supervisor)
    logs/*.status.json ─────┼─► RunStatus ──► table (terminal.py), page (page.py), Prometheus (prometheus.py)
    */metrics.jsonl ────────┤ progress of each learning stage
    stages.jsonl ───────────┘ stages done

It connects to nothing, so it works from any terminal, on a copy of the folder, and after the run.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from protos.errors import InputError
from protos.files import last_line, log_tail, read_lines, read_object
from protos.folders import owner_of
from protos.status import Status, read_status

STALE_S = 10.0
"""Age above which a status is shown with its age."""
PID_START_TOLERANCE_S = 5.0
_SUFFIX = ".status.json"


@dataclass(frozen=True, kw_only=True)
class ProcessLine:
    """A process line joins the supervisor's record of one process with the process's own status."""

    name: str
    pid: int
    state: str
    """State last written by the supervisor, or "gone" when no such process exists any more."""
    restarts: int = 0
    doing: str = ""
    waiting_for: str = ""
    rates: dict[str, float] = field(default_factory=dict)
    age_s: float | None = None
    """Seconds since the process wrote its status."""
    memory_mb: float | None = None
    log_end: str = ""
    """End of the log of a process that failed or was lost."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """The state of a run, from its folder."""

    folder: Path
    running: bool
    processes: list[ProcessLine]
    stages: list[dict[str, Any]]
    learning: dict[str, dict[str, Any]]
    """Newest line of metrics.jsonl by stage folder."""


def process_statuses(run: Path) -> dict[str, Status]:
    """Reads the status files of a run's processes, by name; damaged ones are left out."""
    found = {path.name.removesuffix(_SUFFIX): read_status(path) for path in sorted((run / "logs").glob(f"*{_SUFFIX}"))}
    return {name: status for name, status in found.items() if status is not None}


def read_run(run: Path) -> RunStatus:
    """Reads the run folder once. Raises InputError for a folder that is no run."""
    statuses = process_statuses(run)
    if not statuses and not any((run / name).is_file() for name in ("processes.json", "settings.json")):
        siblings = sorted(path.parent.name for path in run.parent.glob("*/settings.json"))
        known = f"runs there: {', '.join(siblings)}" if siblings else f"no runs in {run.parent}"
        raise InputError(f"{run} is not a run folder; {known}")
    table, owner = read_object(run / "processes.json"), owner_of(run)
    seen = None if owner is not None and owner.is_elsewhere else owner is not None
    rows = {row["name"]: row for row in table.get("processes", [])}
    lines = [_process(run, row, statuses.get(name), owned=seen) for name, row in rows.items()]
    for name in sorted(statuses.keys() - rows.keys()):  # started by a process of the run, as Ray's workers are
        lines.append(_process(run, {"name": name}, statuses[name], owned=seen if table else None))
    learning = {path.parent.name: last_line(path) for path in sorted(run.glob("*/metrics.jsonl"))}
    return RunStatus(
        folder=run,
        running=owner is not None or (not table and any(line.state == "running" for line in lines)),
        processes=lines,
        stages=read_lines(run / "stages.jsonl"),
        learning={name: line for name, line in learning.items() if line},
    )


def _process(run: Path, row: dict[str, Any], status: Status | None, *, owned: bool | None) -> ProcessLine:
    """Joins what is known of a process; `owned`: its run is under way; None where that cannot be seen."""
    pid = int(row.get("pid", status.pid if status else 0))
    age_s = max(time.time() - status.t, 0.0) if status else None
    here = owned is True and _alive(pid, row.get("started_unix_s"))
    # It lives in a container, or on another machine, where its number means nothing here: a fresh status says it lives.
    alive = here or (owned is None and age_s is not None and age_s < STALE_S)
    state = str(row.get("state", "running"))
    if state == "running" and not alive:
        state = "gone"
    return ProcessLine(
        name=row["name"],
        pid=pid,
        state=state,
        restarts=int(row.get("restarts", 0)),
        doing=status.doing if status else "",
        waiting_for=status.waiting_for if status and alive else "",
        rates=status.rates if status else {},
        age_s=age_s,
        memory_mb=_memory_mb(pid) if here else None,
        log_end=log_tail(run / "logs" / f"{row['name']}.log") if state in ("failed", "lost") else "",
    )


def _alive(pid: int, started_unix_s: float | None) -> bool:
    """Returns True if the process exists and is the one that was started then, not a later one with the same number."""
    try:
        process = psutil.Process(pid)
        same = started_unix_s is None or abs(process.create_time() - started_unix_s) < PID_START_TOLERANCE_S
        return pid > 0 and same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _memory_mb(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).memory_info().rss) / 1e6
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
