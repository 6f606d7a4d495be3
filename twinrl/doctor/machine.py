"""The machine itself: cores, memory, disk, clock, ports. Reads and binds; changes nothing."""

import ctypes
import os
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import redis

from actors.real.dashboard import PORTS
from actors.real.driver.priority import REALTIME_PRIORITY
from protos.errors import InputError, TwinRLError
from protos.files import RAY_SOCKET_BYTES, place_for_sockets
from protos.problems import problem_of
from services.replay import ReplaySettings, connect, masked
from twinrl.doctor.finding import Finding, wanting, well

MEMORY_GIB, DISK_GIB = 4.0, 2.0
"""The demo needs about so much; its memory is mostly processes, its disk the replay and the checkpoints."""
SERVICE_PORTS = {6379: "replay", 7070: "weights", 7071: "guide"}
"""Ports that the documentation of a cluster uses."""
ROBOT_HOSTS = [f"127.0.0.{last}" for last in range(41, 200)]
"""Loopback addresses for stand-ins: the ports of a UR controller are fixed, so each needs an address of its own."""
OPEN_FILES = 1_024
"""Descriptors that a process may need; a learner with threads, sockets and mapped files uses some hundred."""
CLOCK_S = 1.0
"""Clocks may differ by so much: ages of samples are told in seconds."""
_DAY_S = 86_400
_TIMEX_BYTES, _TIME_ERROR = 512, 5


def memory() -> Finding:
    """Checks the free memory, without swap."""
    free, cores = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), len(os.sched_getaffinity(0))
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # counts what the kernel would give back from its caches
        lines = (line.split() for line in meminfo.read_text().splitlines())
        free = next((int(line[1]) << 10 for line in lines if line[0] == "MemAvailable:"), free)
    found = f"{free / 2**30:.1f} GiB of memory free, {cores} cores"
    return (
        well(found) if free >= MEMORY_GIB * 2**30 else wanting(found, f"{MEMORY_GIB:g} GiB needed; end other programs")
    )


def disk(folder: Path) -> Finding:
    """Space where runs are written: the folder's nearest ancestor that exists."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / 2**30:.1f} GiB free in {there}"
    if not os.access(there, os.W_OK):
        return wanting(f"{there} cannot be written", "choose another folder: --runs FOLDER")
    return (
        well(found)
        if free >= DISK_GIB * 2**30
        else wanting(found, f"{DISK_GIB:g} GiB needed; --runs names another disk")
    )


def shared_memory() -> Finding:
    """Ray keeps its objects there; containers often have 64 MB."""
    from actors.sim.ray_session import OBJECT_STORE_BYTES

    size = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").exists() else 0
    found, needed = f"{size / 2**20:.0f} MiB of shared memory free", OBJECT_STORE_BYTES / 2**20
    return well(found) if size >= OBJECT_STORE_BYTES else wanting(found, f"Ray needs {needed:.0f} MiB: --shm-size=1g")


def sockets() -> Finding:
    """Finds a folder that is short enough for the sockets of Ray and of the replay."""
    try:
        place = place_for_sockets("twinrl-learner-", RAY_SOCKET_BYTES)
    except (InputError, OSError) as error:  # OSError: no temporary folder at all
        return wanting(problem_of(error), "set TMPDIR=/tmp")
    found = f"sockets of Ray and of the replay go to {place}"
    temporary = tempfile.gettempdir()
    return well(found if place == temporary else f"{found}, as {temporary} is too long or cannot be written")


def open_files() -> Finding:
    """Checks the limit of open files; a run raises the soft one to the hard one by itself."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    found = f"{'any number of' if hard == resource.RLIM_INFINITY else hard} open files allowed"
    if hard == resource.RLIM_INFINITY or hard >= OPEN_FILES:
        return well(found)
    return wanting(found, f"{OPEN_FILES} needed: raise the hard limit, `ulimit -Hn` or /etc/security/limits.conf")


def real_time() -> Finding:
    """Checks whether the driver of an arm may go before other work."""
    soft, _ = resource.getrlimit(resource.RLIMIT_RTPRIO)
    if os.geteuid() == 0 or soft == resource.RLIM_INFINITY or soft >= REALTIME_PRIORITY:
        return well(f"real-time priority {REALTIME_PRIORITY} allowed for the driver of an arm")
    return wanting(
        "no real-time priority for the driver of an arm: other work on this machine makes it hold more often",
        f'add "USER - rtprio {REALTIME_PRIORITY}" to /etc/security/limits.conf and log in again',
    )


def clock() -> Finding:
    """Checks that the clock is not before the installation and that a time service keeps it."""
    ahead = time.time() - Path(__file__).stat().st_mtime
    if ahead < -_DAY_S:
        return wanting(
            f"the clock says {time.ctime()}, before this program was installed", "set it; TLS needs the date"
        )
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state == _TIME_ERROR:
        return wanting(
            "the kernel does not know of a time service", "one machine is fine; for several run chrony on each"
        )
    return well(f"{time.strftime('%Y-%m-%d %H:%M:%S %Z')}, kept by a time service")


def robot_ports() -> Finding:
    """A loopback address where a stand-in can listen on all of a UR controller's ports."""
    for host in ROBOT_HOSTS:
        if all(is_free(host, port) for port in PORTS):
            return well(f"{', '.join(map(str, PORTS))} free on {host} for a stand-in arm")
    return wanting(
        f"no address from {ROBOT_HOSTS[0]} to {ROBOT_HOSTS[-1]} has the ports of a UR controller free",
        "end other stand-ins; in a container allow 127.0.0.0/8",
    )


def service_ports() -> Finding:
    """The customary ports of the services."""
    taken = [f"{port} ({name})" for port, name in SERVICE_PORTS.items() if not is_free("127.0.0.1", port)]
    if taken:
        return wanting(f"taken: {', '.join(taken)}", "fine if it is that service; else choose another with --listen")
    return well(f"{', '.join(map(str, SERVICE_PORTS))} free")


def is_free(host: str, port: int) -> bool:
    """Returns whether a service could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def robot(host: str, timeout_s: float, ports: Sequence[int] = tuple(PORTS)) -> Finding:
    """Checks whether a controller listens at its ports; sends nothing."""
    silent = [f"{port} ({PORTS.get(port, 'other')})" for port in ports if not _answers(host, port, timeout_s)]
    if silent:
        return wanting(
            f"{host} does not answer at {', '.join(silent)}", "switch the controller on, allow remote control"
        )
    return well(f"{host} answers at {', '.join(map(str, ports))}")


def _answers(host: str, port: int, timeout_s: float) -> bool:
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return False
    return True


def replay(asked_for: ReplaySettings, timeout_s: float) -> Finding:
    """Asks the first replay server for the time. Its password is never shown."""
    settings = replace(asked_for, connect_timeout_s=timeout_s, command_timeout_s=timeout_s)
    url = settings.urls[0]
    try:
        with closing(cast(redis.Redis, connect(settings))) as client:
            client.ping()
            asked = time.time()
            seconds, micros = client.time()
            answered = time.time()
    except (redis.RedisError, TwinRLError, OSError) as error:
        return wanting(f"{masked(url)}: {error}", "start it, or mend address, certificates or password")
    apart = seconds + micros / 1e6 - (asked + answered) / 2
    found = f"{masked(url)} answers in {1e3 * (answered - asked):.1f} ms, clock {apart:+.3f} s from here"
    return (
        well(found)
        if abs(apart) <= CLOCK_S
        else wanting(found, f"clocks may differ by {CLOCK_S:g} s; run chrony on both")
    )
