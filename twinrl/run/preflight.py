"""This module tries, before the first stage of a run, what its later stages need of the machine.

What the program can mend it mends: sockets go to /tmp where TMPDIR is too long (`protos.files.short_folder`), kernels
are cached elsewhere where the user's folders cannot be written (`twin`), the limit of open files is raised here.
"""

import resource
from collections.abc import Callable, Mapping
from pathlib import Path

from actors.real import ArmSettings, Station
from protos.errors import ArmStopped, InputError
from twinrl.doctor import machine
from twinrl.doctor.finding import Finding
from twinrl.run.room import check_room, explained, needed_bytes, size_of
from twinrl.run.settings import RunSettings

OPEN_FILES = 8_192
"""Limit of open files of a run's processes, where the system allows it."""


def preflight(folder: Path, settings: RunSettings, station: Station | None = None, *, resume: bool) -> list[str]:
    """Returns what makes the run slower. Raises InputError with everything that would end it later, and what to set.

    A station's controller is asked, and not moved. Raises Unreachable where none answers.
    """
    raise_open_files()
    there = size_of(folder.rglob("*")) if resume else 0
    check_room(folder, max(needed_bytes(settings) - there, 0), f"this plan ({explained(settings)})")
    needed: dict[str, Callable[[], Finding]] = {"sockets": machine.sockets, "open files": machine.open_files}
    if station is None:
        needed["robot ports"] = machine.robot_ports
    if missing := _wanting(needed):
        raise InputError(f"this machine cannot do a run yet: {'; '.join(missing)}")
    not_ready = [] if station is None else _not_ready(station.arm)
    return not_ready + _wanting({"memory": machine.memory, "shared memory": machine.shared_memory})


def _not_ready(arm: ArmSettings) -> list[str]:
    """Returns why the arm cannot move yet, which its operator has time to mend until a stage needs it."""
    from actors.real.dashboard import check_ready

    try:
        check_ready(arm.host, arm.connect_timeout_s, arm.pendant, arm.model)
    except ArmStopped as stop:
        return [str(stop)]
    return []


def _wanting(checks: Mapping[str, Callable[[], Finding]]) -> list[str]:
    findings = {name: check() for name, check in checks.items()}
    return [f"{name}: {one.found} -> {one.advice}" for name, one in findings.items() if not one.ok]


def raise_open_files() -> None:
    """Raises this process's limit of open files, and that of its children, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_stage_room(out: Path, policy: Path) -> None:
    """Raises InputError where a stage's folder has no room for its policy and two checkpoints.

    A checkpoint holds policy, critics, targets and the optimizers' state: up to three times a policy's size.
    """
    check_room(out, 8 * size_of(policy.rglob("*")) + (16 << 20), f"a stage that begins with {policy}")
