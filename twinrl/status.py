"""What each process of a run does, and who waits for whom, read from the run folder alone.

    processes.json ─────────┐ who was started, restarts, exit codes (the supervisor)
    logs/*.status.json ─────┼─► RunStatus ──► table
    */metrics.jsonl ────────┤ how far each learning stage is
    stages.jsonl ───────────┘ what is done

It connects to nothing, so it works from any terminal, on a copy of the folder, and after the run. What the run's
services say of themselves is in twinrl/cluster.py.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from protos.errors import InputError
from protos.status import read_status
from twinrl.run.files import last_line, read_lines, read_object
from twinrl.run.progress import duration
from twinrl.run.supervisor import log_tail

STALE_S = 10.0
"""A living process that has not written its status for this long is shown with the age of what it said."""
PID_START_TOLERANCE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class ProcessLine:
    """One process as `status` shows it."""

    name: str
    pid: int
    state: str  # as the supervisor last wrote it, or "gone" when no such process exists any more
    restarts: int = 0
    doing: str = ""
    waiting_for: str = ""
    rates: dict[str, float] = field(default_factory=dict)
    age_s: float | None = None
    memory_mb: float | None = None
    last_words: str = ""
    """End of the log of a failed process."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """All that the run folder tells."""

    folder: Path
    running: bool
    processes: list[ProcessLine]
    stages: list[dict[str, Any]]
    learning: dict[str, dict[str, Any]]
    """Newest line of metrics.jsonl by stage folder."""


def status(run_dir: Path) -> RenderableType:
    """The state of a run as a table for a terminal. InputError when the folder is no run."""
    return render(read_run(run_dir))


def read_run(run_dir: Path) -> RunStatus:
    """Reads the run folder once."""
    said = sorted((run_dir / "logs").glob("*.status.json"))
    if not said and not any((run_dir / name).is_file() for name in ("processes.json", "settings.json")):
        siblings = sorted(path.parent.name for path in run_dir.parent.glob("*/settings.json"))
        known = f"runs there: {', '.join(siblings)}" if siblings else f"no runs in {run_dir.parent}"
        raise InputError(f"{run_dir} is not a run folder; {known}")
    table = read_object(run_dir / "processes.json")
    rows = {row["name"]: _process(run_dir, row, supervised=True) for row in table.get("processes", [])}
    for path in said:
        name = path.name.removesuffix(".status.json")
        if name not in rows:  # started by a process of the run, as Ray's workers are
            rows[name] = _process(run_dir, {"name": name}, supervised=bool(table))
    learning = {path.parent.name: last_line(path) for path in sorted(run_dir.glob("*/metrics.jsonl"))}
    return RunStatus(
        folder=run_dir,
        running=_alive(int(table.get("run_pid", 0)), None)
        or (not table and any(line.state == "running" for line in rows.values())),
        processes=list(rows.values()),
        stages=read_lines(run_dir / "stages.jsonl"),
        learning={name: line for name, line in learning.items() if line},
    )


def render(run: RunStatus) -> RenderableType:
    """The table of processes, then the stages, then the last words of failed processes."""
    head = Text.assemble((str(run.folder), "bold"), "  running" if run.running else "  not running")
    failed = [line for line in run.processes if line.last_words]
    words = [Text(f"{line.name} failed; the end of its log:\n{line.last_words}", style="red") for line in failed]
    return Group(head, _process_table(run.processes), *_stage_lines(run), *words)


def _process(run_dir: Path, row: dict[str, Any], *, supervised: bool) -> ProcessLine:
    """Joins the supervisor's row with what the process says of itself."""
    said = read_status(run_dir / "logs" / f"{row['name']}.status.json")
    pid = int(row.get("pid", said.pid if said else 0))
    age_s = max(time.time() - said.t, 0.0) if said else None
    here = supervised and _alive(pid, row.get("started_unix_s"))
    # Without a supervisor it lives in a container, where its number means nothing here: a fresh status says it lives.
    alive = here or (not supervised and age_s is not None and age_s < STALE_S)
    state = str(row.get("state", "running"))
    if state == "running" and not alive:
        state = "gone"
    return ProcessLine(
        name=row["name"],
        pid=pid,
        state=state,
        restarts=int(row.get("restarts", 0)),
        doing=said.doing if said else "",
        waiting_for=said.waiting_for if said and alive else "",
        rates=said.rates if said else {},
        age_s=age_s,
        memory_mb=_memory_mb(pid) if here else None,
        last_words=log_tail(run_dir / "logs" / f"{row['name']}.log") if state == "failed" else "",
    )


def _alive(pid: int, started_unix_s: float | None) -> bool:
    """Whether the process exists and is the one that was started then, not a later one with the same number."""
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


def _process_table(processes: list[ProcessLine]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("process", "pid", "state", "restarts", "memory", "does", "waits for", "rates"):
        table.add_column(title, justify="right" if title in ("pid", "restarts", "memory") else "left")
    styles = {"running": "green", "finished": "", "stopped": "", "restarting": "yellow", "failed": "red", "gone": "red"}
    for line in processes:
        old = line.age_s is not None and line.age_s > STALE_S and line.state == "running"
        table.add_row(
            Text(line.name, style="bold"),
            str(line.pid) if line.memory_mb is not None else "",
            Text(line.state, style=styles.get(line.state, "")),
            str(line.restarts or ""),
            "" if line.memory_mb is None else f"{line.memory_mb:,.0f} MB",
            Text(line.doing + (f" ({duration(line.age_s or 0)} ago)" if old else "")),
            Text(line.waiting_for, style="yellow"),
            Text("  ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in line.rates.items())),
        )
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _stage_lines(run: RunStatus) -> list[Text]:
    done = [_done_line(stage) for stage in run.stages]
    under_way = [
        f"{name}: {line.get('step', 0):,} of {line.get('total', 0):,}"
        for name, line in run.learning.items()
        if line.get("step", 0) < line.get("total", 0)
    ]
    lines = [("done: ", done), ("under way: ", under_way)]
    return [Text.assemble((title, "dim"), ", ".join(items)) for title, items in lines if items]


def _done_line(stage: dict[str, Any]) -> str:
    return f"{stage.get('stage', '?')} {duration(float(stage.get('wall_s', 0)))}"
