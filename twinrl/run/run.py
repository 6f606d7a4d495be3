"""One run of the method: its stages in order, each left behind as files, so that any of them can be the last.

    scan ─► demonstrations ─► SFT (A only | A + B, side by side) ─► evaluation in the twin
         ─► twin RL (Ray actors, learner) ─► scan of the twin for the target set
         ─► arm: before ─► guided RL with takeovers ─► after ─► report

The arm is a stand-in that the run starts (`twinrl demo`), or the station of a lab file (`twinrl run`).

A stage that finished has its line in `stages.jsonl`; `--resume` starts at the first that has none. Every process is a
child of the supervisor; when the run ends, for whatever reason, none is left.
"""

import os
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

from rich.console import Console
from rich.panel import Panel

from actors.real import Station
from protos.errors import InputError, TwinRLError
from protos.files import JsonLines, read_lines
from protos.folders import Ownership, check_name, contents, owned
from protos.problems import problem_of
from protos.process import Exit, interrupt_on_signal
from protos.settings import anchored, save_settings, to_json
from services.replay import ReplaySettings, masked, totals
from twinrl.run.context import RunContext, Services
from twinrl.run.preflight import preflight
from twinrl.run.progress import Progress
from twinrl.run.settings import RunSettings
from twinrl.run.stages import STAGES, StageSpec
from twinrl.run.stored_replay import run_settings
from twinrl.run.supervisor import Supervisor

SETTINGS, STATION = "settings.json", "station.json"


@dataclass(frozen=True, kw_only=True)
class Life:
    """One life of a run, from a start of its command to the end."""

    resume: bool = False
    """Go on with the run of this name."""
    station: Station | None = None
    """The lab's arm; without one stand-ins take its place."""
    is_armed: bool = False
    """The station's operator has cleared the workspace."""
    again: str = ""
    """Command that goes on with the run; by default the demo's."""


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One finished stage."""

    stage: str
    wall_s: float
    cpu_s: float
    unit: str
    count: float


def run(settings: RunSettings, life: Life) -> int:
    """Runs every stage that is not done; returns the exit code."""
    ownership, notes = _resumed(settings, life) if life.resume else _begun(settings, life)
    with ownership:
        folder, console = ownership.folder, Console()
        life = replace(life, again=life.again or _go_on(folder))
        settings = run_settings(folder)
        told = _as_text(settings, life.station)
        console.print(Panel(told, title=f"{folder}", title_align="left", border_style="dim"))
        for line in notes:
            console.print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)
        interrupt_on_signal(hangup=life.station is not None)
        try:
            _run_stages(ownership, settings, life, console)
        except KeyboardInterrupt:
            console.print(_interrupted(folder, life.again), soft_wrap=True)
            return Exit.INTERRUPTED
        console.print(f"report: {folder / 'report.html'}")
        return Exit.DONE


def _run_stages(ownership: Ownership, settings: RunSettings, life: Life, console: Console) -> None:
    folder = ownership.folder
    done = _finished(folder)
    with (
        Progress([stage.name for stage in STAGES], console=console) as progress,
        Supervisor(folder, ownership=ownership, tell=lambda line: progress.say(f"note: {line}")) as supervisor,
    ):
        services = Services(folder, settings, supervisor)
        context = RunContext(
            folder=folder,
            settings=settings,
            supervisor=supervisor,
            services=services,
            station=life.station,
            is_armed=life.is_armed,
        )
        for stage in STAGES:
            if stage.name in done:
                progress.skip(stage.name, "done before")
                continue
            with _told_with(stage.name, life.again):
                _run_stage(stage, context, progress)


def _run_stage(stage: StageSpec, context: RunContext, progress: Progress) -> None:
    """Runs one stage and keeps that it is done."""
    started, cpu = time.monotonic(), _children_cpu_s()
    total, at_station = stage.total(context.settings), context.station is not None and stage.asks is not None
    with progress.stage(stage.name, total=total, unit=stage.unit, quiet=at_station) as view:
        if context.station and stage.asks and (asked := stage.asks(context.settings, context.station)):
            progress.say(f"YOU ARE NEEDED: {asked}. Ctrl-C holds the arm and ends; it goes on later.")
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


def _resumed(given: RunSettings, life: Life) -> tuple[Ownership, list[str]]:
    """Opens a run where it lies, whatever it was called when it began; returns notes on the machine too."""
    folder = given.folder
    if not (folder / SETTINGS).exists():
        raise InputError(f"--resume: there is no run in {folder}; start it without --resume")
    with ExitStack() as undo:
        ownership = undo.enter_context(_take(folder))
        settings = run_settings(folder)
        if (life.station is None) is (folder / STATION).exists():
            began = "`twinrl run` and a lab's arm" if life.station is None else "stand-ins in place of an arm"
            raise InputError(f"{folder}: begun with {began}; go on with the same command")
        if life.station is not None:
            _check_unchanged(settings, given)
        notes = preflight(folder, settings, life.station, resume=True)
        _kept_in_replay(settings)
        _keep_station(folder, life.station)
        # the services of the run's life before are gone, and so are their addresses
        for stale in (folder / "settings").glob("*.json"):
            stale.unlink()
        undo.pop_all()
    return ownership, notes


def _check_unchanged(settings: RunSettings, given: RunSettings) -> None:
    """Raises InputError where a lab file's plan is not that of the run any more; its station may be another."""
    given = replace(given, name=settings.name, runs=settings.runs)
    if changed := [each.name for each in fields(given) if getattr(given, each.name) != getattr(settings, each.name)]:
        raise InputError(
            f"{', '.join(changed)}: changed since the run began, and it goes on as it began; set them back "
            "([station] may change), or start another run by --name"
        )


def _keep_station(folder: Path, station: Station | None) -> None:
    if station is not None:
        save_settings(station, folder / STATION)


def _begun(settings: RunSettings, life: Life) -> tuple[Ownership, list[str]]:
    """Makes the folder of a new run, with its settings; a run of the same name is moved aside."""
    check_name("--name", settings.name)
    with ExitStack() as undo:
        ownership = undo.enter_context(_take(settings.folder))
        notes = preflight(ownership.folder, settings, life.station, resume=False)  # before anything is moved
        if kept := _kept_in_replay(settings):
            raise InputError(
                f"{masked(settings.replay[0])} keeps {kept} transitions of another run of this name, under "
                f"{settings.prefix!r}; choose another --name, or go on with that run by --resume"
            )
        if contents(ownership.folder):
            ownership = undo.enter_context(_moved_aside(ownership))
        save_settings(anchored(settings), ownership.folder / SETTINGS)
        _keep_station(ownership.folder, life.station)
        undo.pop_all()
    return ownership, notes


def _kept_in_replay(settings: RunSettings) -> int:
    """Asks a replay that was named, since a wrong address is better known now than after the scan."""
    if not settings.replay:
        return 0
    named = ReplaySettings(urls=settings.replay, prefix=settings.prefix, credentials=settings.credentials)
    return sum(totals(named).values())


def _take(folder: Path) -> Ownership:
    return owned(folder, "twinrl demo", instead="choose another --name")


def _moved_aside(ownership: Ownership) -> Ownership:
    """Moves a run of the same name aside, keeping one older one: nothing trained is deleted unasked.

    Both are owned meanwhile, and the folder that takes their place at once, so no other program sees a half of it.
    """
    folder = ownership.folder
    old = folder.with_name(f"{folder.name}.old")
    for each in (folder, old):
        if contents(each) and not (each / SETTINGS).exists():
            raise InputError(f"{each} exists and is not a run of TwinRL; choose another --name")
    with ownership:
        if old.exists():
            with _take(old):
                shutil.rmtree(old)
        ownership.rename(old)
        return _take(folder)


def _finished(folder: Path) -> set[str]:
    return {str(line.get("stage")) for line in read_lines(folder / "stages.jsonl")}


@contextmanager
def _told_with(stage: str, again: str) -> Iterator[None]:
    """Adds the stage, and how to go on, to the problem that ends it."""
    try:
        yield
    except (TwinRLError, OSError) as error:
        raise TwinRLError(f"stage {stage!r}: {problem_of(error)}. Go on with: {again}") from error


def _go_on(folder: Path) -> str:
    """Returns the command that goes on with a demo in a folder, whatever it was called when it began."""
    flags = ""
    if folder != RunSettings().folder:
        flags = f" --runs {shlex.quote(str(folder.parent))} --name {shlex.quote(folder.name)}"
    return f"twinrl demo{flags} --resume"


def _interrupted(folder: Path, again: str) -> str:
    done = _finished(folder)
    names = ", ".join(stage.name for stage in STAGES if stage.name in done) or "no stage yet"
    return (
        f"Stopped. Saved in {folder}: {names}; replay and the checkpoint of the stage under way.\nGo on with: {again}"
    )


def _as_text(settings: RunSettings, station: Station | None) -> str:
    """The full configuration as dotted lines, without the passwords in urls."""
    lines: list[str] = []

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            lines.append(f"{prefix} = {value}")

    walk("", to_json(replace(settings, replay=tuple(map(masked, settings.replay)))))
    if station is not None:
        walk("station", to_json(station))
    return "\n".join(lines)


def _children_cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
