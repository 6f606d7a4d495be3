"""Which checks a machine of each role gets, and which of them it cannot do without."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from services.net.credentials import Credentials
from twinrl.doctor import machine, neighbours
from twinrl.doctor.children import run_probes
from twinrl.doctor.finding import Finding

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
    "clock": ("", "demo twins learner robot services"),
    "robot ports": ("demo", ""),
    "service ports": ("", "services"),
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person wants to know."""

    role: Role = "demo"
    """demo: everything on one machine; or what one machine of a cluster does."""
    runs: Path = Path("runs")
    """Where runs will be written."""
    replay: tuple[str, ...] = ()
    """Replay servers to reach: redis:// or rediss:// URLs."""
    credentials: Credentials = field(default_factory=Credentials)
    """For rediss://."""
    robot: str | None = None
    """Address of an arm to reach."""
    timeout_s: float = 3.0
    """For every answer of a server or an arm."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One check's answer."""

    check: str
    needed: bool
    finding: Finding


def examine(asked: Asked) -> Iterator[Result]:
    """Every check of the role as it is done, the machine first; seconds, a first time longer: kernels are compiled."""
    inline: dict[str, Callable[[], Finding]] = {
        "memory": machine.memory,
        "disk": partial(machine.disk, asked.runs),
        "shared memory": machine.shared_memory,
        "clock": machine.clock,
        "robot ports": machine.robot_ports,
        "service ports": machine.service_ports,
    }
    for name, roles in chosen(MACHINE_CHECKS, asked.role):
        yield _result(name, roles, asked.role, inline[name]())
    for url in asked.replay:
        finding = neighbours.replay(url, asked.credentials, asked.timeout_s)
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
