"""This module runs the checks that a role needs, and those that it can use.

A probe of a library runs in a child process: one that hangs, crashes or kills its process costs one line of the report.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from services.monitor import Addresses
from services.net import Credentials
from twinrl.doctor import machine
from twinrl.doctor.finding import Finding, wanting

Role = Literal["demo", "twins", "learner", "robot", "services"]
ROLES: tuple[Role, ...] = get_args(Role)
PROBE_CHECKS: Mapping[str, tuple[str, str]] = {
    # name: (roles that need it, roles that can use it)
    "numba": ("demo twins", ""),
    "gsplat": ("", "demo twins"),
    "egl": ("", "demo twins"),
    "osmesa": ("", "demo twins"),
    "mujoco": ("demo twins", ""),
    "pycolmap": ("demo", "twins"),
    "torch": ("demo learner robot", "twins"),
    "ray": ("demo twins learner", ""),
    "ur_rtde": ("demo robot", ""),
    "valkey": ("demo services", ""),
}
MACHINE_CHECKS: Mapping[str, tuple[str, str]] = {
    "memory": ("demo twins learner robot services", ""),
    "disk": ("demo twins learner robot services", ""),
    "shared memory": ("", "demo twins"),
    "sockets": ("demo twins learner", ""),
    "open files": ("demo twins learner robot services", ""),
    "real time": ("", "demo robot"),
    "clock": ("", "demo twins learner robot services"),
    "robot ports": ("demo", ""),
    "service ports": ("", "services"),
}


DEADLINE_S = 180.0
"""Long enough to compile gsplat on a slow machine; every other probe takes seconds."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The question: a role, and the servers and the arm to reach."""

    role: Role = "demo"
    """demo: everything on one machine; or what one machine of a cluster does."""
    runs: Path = Path("runs")
    """Folder for runs."""
    replay: tuple[str, ...] = ()
    """Replay servers to reach: redis:// or rediss:// URLs."""
    credentials: Credentials = field(default_factory=Credentials)
    """Certificates for rediss:// URLs, and the password of the user."""
    password_file: Path | None = None
    """Holds the password of the user in the URLs; by default the credentials' own."""
    prefix: str = "twinrl"
    """First part of the run's keys in the replay."""
    robot: str | None = None
    """Address of an arm to reach."""
    timeout_s: float = 3.0
    """Deadline of every answer of a server or an arm."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The finding of one check."""

    check: str
    needed: bool
    finding: Finding


def examine(asked: Asked) -> Iterator[Result]:
    """Every check of the role as it is done, the machine first; seconds, a first time longer: kernels are compiled."""
    inline: dict[str, Callable[[], Finding]] = {
        "memory": machine.memory,
        "disk": partial(machine.disk, asked.runs),
        "shared memory": machine.shared_memory,
        "sockets": machine.sockets,
        "open files": machine.open_files,
        "real time": machine.real_time,
        "clock": machine.clock,
        "robot ports": machine.robot_ports,
        "service ports": machine.service_ports,
    }
    for name, roles in chosen(MACHINE_CHECKS, asked.role):
        yield _result(name, roles, asked.role, inline[name]())
    for url in asked.replay:
        given = Addresses(
            replay=(url,), prefix=asked.prefix, password_file=asked.password_file, credentials=asked.credentials
        )
        replay = given.settings().replay
        assert replay is not None, "a url was given"
        finding = machine.replay(replay, asked.timeout_s)
        yield Result(check="replay", needed=True, finding=finding)
    if asked.robot is not None:
        yield Result(check="robot", needed=True, finding=machine.robot(asked.robot, asked.timeout_s))
    probes = dict(chosen(PROBE_CHECKS, asked.role))
    for name, finding in run_probes(list(probes)):
        yield _result(name, probes[name], asked.role, finding)


def chosen(checks: Mapping[str, tuple[str, str]], role: Role) -> list[tuple[str, tuple[str, str]]]:
    """The checks that a role needs or can use, in their order."""
    return [(name, roles) for name, roles in checks.items() if role in " ".join(roles).split()]


def _result(name: str, roles: tuple[str, str], role: Role, finding: Finding) -> Result:
    return Result(check=name, needed=role in roles[0].split(), finding=finding)


def run_probes(names: Sequence[str], deadline_s: float = DEADLINE_S) -> Iterator[tuple[str, Finding]]:
    """Each name and its finding, in their order, as soon as it is known; as many run at a time as there are cores."""
    with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
        yield from zip(names, pool.map(lambda name: run_probe(name, deadline_s), names), strict=True)


def run_probe(name: str, deadline_s: float) -> Finding:
    """One probe, killed at its deadline."""
    command = [sys.executable, "-m", "twinrl.doctor", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, check=False)
    except subprocess.TimeoutExpired:
        return wanting(f"no answer within {deadline_s:g} s", f"try it by hand: {' '.join(command[1:])}")
    if done.returncode < 0:
        cause = signal.Signals(-done.returncode).name
        return wanting(
            f"killed by {cause}", "the installed build is not made for this processor or system; reinstall it"
        )
    try:
        return Finding(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, TypeError, ValueError):
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        return wanting(f"ended with code {done.returncode}: {last}", f"try it by hand: {' '.join(command[1:])}")
