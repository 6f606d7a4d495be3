"""One run of the method: its stages in order, each left behind as files, so that any of them can be the last.

    scan ─► demonstrations ─► SFT (A only | A + B, side by side) ─► evaluation in the twin
         ─► twin RL (Ray actors, learner) ─► scan of the twin for the target set
         ─► stand-in arm: before ─► guided RL with takeovers ─► after ─► report

A stage that finished has its line in `stages.jsonl`; `--resume` starts at the first that has none. Every process is a
child of the supervisor; when the run ends, for whatever reason, none is left.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.panel import Panel

from protos.errors import InputError, TwinRLError
from protos.files import JsonLines, read_lines
from protos.problems import problem_of
from protos.process import Exit, interrupt_on_signal
from protos.settings import load_settings, save_settings, to_json
from services.replay import ReplaySettings, masked, totals
from twinrl.run.context import RunContext, Services
from twinrl.run.preflight import preflight
from twinrl.run.progress import Progress
from twinrl.run.settings import RunSettings
from twinrl.run.stages import STAGES, StageSpec
from twinrl.run.supervisor import Supervisor


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One finished stage."""

    stage: str
    wall_s: float
    cpu_s: float
    unit: str
    count: float


def run(settings: RunSettings, *, resume: bool) -> int:
    """Runs every stage that is not done; returns the exit code."""
    notes = [] if resume else preflight(settings, resume=False)  # before a folder is made or moved
    settings = _open_folder(settings, resume=resume)
    notes = preflight(settings, resume=True) if resume else notes
    console = Console()
    console.print(Panel(_as_text(settings), title=f"{settings.folder}", title_align="left", border_style="dim"))
    for line in notes:
        console.print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)
    done = _finished(settings.folder)
    interrupt_on_signal()
    try:
        _run_stages(settings, done, console)
    except KeyboardInterrupt:
        console.print(_interrupted(settings))
        return Exit.INTERRUPTED
    console.print(f"report: {settings.folder / 'report.html'}")
    return Exit.DONE


def _run_stages(settings: RunSettings, done: set[str], console: Console) -> None:
    if settings.replay:
        # a wrong address is better known now than after the scan
        totals(ReplaySettings(urls=settings.replay, credentials=settings.credentials))
    with (
        Progress([stage.name for stage in STAGES], console=console) as progress,
        Supervisor(settings.folder) as supervisor,
    ):
        context = RunContext(settings=settings, supervisor=supervisor, services=Services(settings, supervisor))
        for stage in STAGES:
            if stage.name in done:
                progress.skip(stage.name, "done before")
                continue
            with _told_with(stage.name, settings):
                _run_stage(stage, context, progress)


def _run_stage(stage: StageSpec, context: RunContext, progress: Progress) -> None:
    """Runs one stage and keeps that it is done."""
    started, cpu = time.monotonic(), _children_cpu_s()
    with progress.stage(stage.name, total=stage.total(context.settings), unit=stage.unit) as view:
        count = stage.run(context, view)
    record = StageRecord(
        stage=stage.name,
        wall_s=round(time.monotonic() - started, 2),
        cpu_s=round(_children_cpu_s() - cpu, 2),
        unit=stage.unit,
        count=count,
    )
    with JsonLines(context.folder / "stages.jsonl") as lines:
        lines.write(vars(record))
    context.supervisor.check()


def _open_folder(settings: RunSettings, *, resume: bool) -> RunSettings:
    """A new folder with its settings, or the settings of the run to go on with."""
    folder = settings.folder
    saved = folder / "settings.json"
    if resume:
        if not saved.exists():
            raise InputError(f"--resume: there is no run in {folder}; start it without --resume")
        return load_settings(RunSettings, saved, written=True)
    if folder.exists() and any(folder.iterdir()):
        if not saved.exists():
            raise InputError(f"{folder} exists and is not a run of TwinRL; choose another --name")
        _make_room(folder)
    save_settings(settings, saved)
    return settings


def _make_room(folder: Path) -> None:
    """Moves a run of the same name aside, keeping one older one: nothing trained is deleted unasked."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)


def _finished(folder: Path) -> set[str]:
    return {str(line.get("stage")) for line in read_lines(folder / "stages.jsonl")}


@contextmanager
def _told_with(stage: str, settings: RunSettings) -> Iterator[None]:
    """Adds the stage, and how to go on, to the problem that ends it."""
    try:
        yield
    except (TwinRLError, OSError) as error:
        raise TwinRLError(f"stage {stage!r}: {problem_of(error)}. Go on with: {_go_on(settings)}") from error


def _go_on(settings: RunSettings) -> str:
    flags = "" if settings.folder == RunSettings().folder else f" --runs {settings.runs} --name {settings.name}"
    return f"twinrl demo{flags} --resume"


def _interrupted(settings: RunSettings) -> str:
    done = _finished(settings.folder)
    names = ", ".join(stage.name for stage in STAGES if stage.name in done) or "no stage yet"
    return (
        f"Stopped. Saved in {settings.folder}: {names}; replay and the checkpoint of the stage under way.\n"
        f"Go on with: {_go_on(settings)}"
    )


def _as_text(settings: RunSettings) -> str:
    """The full configuration as dotted lines, without the passwords in urls."""
    lines: list[str] = []

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            lines.append(f"{prefix} = {value}")

    walk("", to_json(replace(settings, replay=tuple(map(masked, settings.replay)))))
    return "\n".join(lines)


def _children_cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
