"""This program fills a run's disk at the start of each stage: the run ends in one line, and goes on when there is room.

    python -m benchmarks.faults.full_disk --folder /mnt/full        as root: it mounts a small tmpfs there

    run --resume ──"[3/10] SFT started"──► all is filled but `leave_kib` ──► one line, exit code 2 ──► room ──► again
                                     or: one folder of the run alone, on a disk of its own, as a quota would do it

The folders alone try what each process says by itself; with all of the disk full the run's own watch is often first.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import table
from protos.errors import InputError
from protos.process import Exit, run_process
from protos.settings import save_settings
from twin.scan import ScanSettings, TrainSettings
from twinrl.run.settings import DemonstrationPlan, EvaluationPlan, RealRlPlan, RunSettings, SftPlan, TwinRlPlan

FOLDERS = {
    "scan": ("scene", "logs"),
    "demonstrations": ("spool",),
    "SFT": ("sft_a",),
    "SFT in the twin": ("eval",),
    "twin RL": ("twin_rl", "weights"),
    "twin RL in the twin": ("eval",),
    "arm before": ("eval",),
    "real RL": ("real_rl", "guide"),
    "arm after": ("eval",),
    "report": ("images",),
}
"""Folders that a stage writes."""
ENDS_NOTHING = ("logs/", "weights/", "guide/")
"""Folders without which a stage goes on: weights are served from memory, and services say what is not on disk."""


@dataclass(frozen=True, kw_only=True)
class FullDisk:
    """Fill the disk of a small run at each stage, and say what the run said."""

    folder: Path
    """Empty folder on which the disk is mounted."""
    leave_kib: int = 4
    """Room that is left: one page of the disk."""
    size_mib: int = 400
    timeout_s: float = 600.0
    """Deadline of one try."""
    stages: tuple[str, ...] = ()
    """Stages to try, all where none is named; the others only run."""
    whole: bool = True
    """Fill the whole disk too, not the folders alone."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One try: what was full, and how the run ended."""

    stage: str
    full: str
    code: int | None
    lines: int
    said: str

    @property
    def well(self) -> bool:
        """Tells whether the run ended as a person expects."""
        went_on = self.code == Exit.INTERRUPTED and self.full in ENDS_NOTHING
        return went_on or (self.code == Exit.PROBLEM and self.lines == 1)


def main(arguments: FullDisk) -> int:
    """Returns 2 where a try ended otherwise than in one line."""
    if os.geteuid() != 0:
        raise InputError("mounting needs root")
    tried = []
    with mounted(arguments.folder, arguments.size_mib << 20):
        run = small_run(arguments.folder)
        save_settings(run, run.folder / "settings.json")
        for stage, folders in FOLDERS.items():
            if stage in (arguments.stages or FOLDERS):
                if arguments.whole:
                    tried.append(try_disk(arguments, run, stage))
                    tell(tried[-1])
                for name in folders:
                    tried.append(try_folder(arguments, run, stage, name))
                    tell(tried[-1])
            code, _, said = demo(arguments, run, until=stage)
            if code not in (Exit.INTERRUPTED, Exit.DONE):
                raise InputError(f"stage {stage!r} did not go on when there was room: {said}")
        rows = [[each.stage, each.full, str(each.code), each.said] for each in tried]
        sys.stdout.write(table(("stage", "full", "exit code", "said"), rows))
    return Exit.DONE if all(each.well for each in tried) else Exit.PROBLEM


def small_run(folder: Path) -> RunSettings:
    """A run of a few minutes."""
    return RunSettings(
        runs=folder / "runs",
        seed=1,
        scan=ScanSettings(train=TrainSettings(steps=20)),
        demonstrations=DemonstrationPlan(real_a=2, twin_a=3, twin_b=3),
        sft=SftPlan(steps=20, batch=8),
        twin_rl=TwinRlPlan(env_steps=600, twins_per_actor=4),
        real_rl=RealRlPlan(env_steps=120),
        evaluation=EvaluationPlan(rollouts=1),
    )


def tell(tried: Tried) -> None:
    sys.stderr.write(f"{'well' if tried.well else 'NOT'} {tried.stage}: {tried.full}: {tried.code}: {tried.said}\n")


@contextlib.contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """Mounts a disk of so many bytes while the context lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def try_disk(arguments: FullDisk, run: RunSettings, stage: str) -> Tried:
    """Fills all of the disk when the stage starts."""
    filler = arguments.folder / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(b"x" * (1 << 16)):  # the run writes meanwhile, so nobody knows how much fits
                    pass
            file.truncate(max(file.tell() - (arguments.leave_kib << 10), 0))

    code, lines, said = demo(arguments, run, until=stage, on_start=fill)
    filler.unlink(missing_ok=True)
    return Tried(stage=stage, full="the disk", code=code, lines=lines, said=said)


def try_folder(arguments: FullDisk, run: RunSettings, stage: str, name: str) -> Tried:
    """Puts one folder of the run on a disk that is full but for `leave_kib`."""
    folder, aside = run.folder / name, run.folder / f"{name}.aside"
    held = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
    if folder.exists():
        folder.rename(aside)
    with mounted(folder, held + (arguments.leave_kib << 10)):
        if aside.exists():
            subprocess.run(["cp", "-a", f"{aside}/.", str(folder)], check=True)
        code, lines, said = demo(arguments, run, until=stage)
    folder.rmdir()
    if aside.exists():
        aside.rename(folder)
    return Tried(stage=stage, full=f"{name}/", code=code, lines=lines, said=said)


def demo(arguments: FullDisk, run: RunSettings, *, until: str, on_start: object = None) -> tuple[int | None, int, str]:
    """Goes on with the run until a stage is done; exit code, lines on stderr, what they say. No code: it was killed."""
    command = [sys.executable, "-m", "twinrl.cli", "demo", "--runs", str(run.runs), "--resume"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None and child.stderr is not None
    late = threading.Timer(arguments.timeout_s, child.kill)
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(child.stderr or ()))
    late.start()
    reader.start()
    for line in child.stdout:
        if line.rstrip().endswith(f"] {until} started") and callable(on_start):
            on_start()
        if line.startswith(("✓", "-")) and f"] {until}  " in line:  # done now, or before
            if until == list(FOLDERS)[-1]:
                continue  # it ends by itself
            time.sleep(0.5)  # its line in stages.jsonl
            child.send_signal(signal.SIGINT)
    code = child.wait()
    late.cancel()
    reader.join()
    told = [line for line in errors if line.strip()]
    return (None if code == -signal.SIGKILL else code), len(told), " ".join(told).strip()


if __name__ == "__main__":
    sys.exit(run_process(FullDisk, main))
