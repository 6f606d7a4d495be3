"""This module sets the stage: a stand-in in real time, the network to it, the arm's program, an observer beside it."""

import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.lab import LAB_PORT
from actors.real import ArmSettings, DemonstratePlan, PendantSettings, RealSettings, SimulatedLab
from actors.simulated_ur import StandinSettings
from protos.errors import TwinRLError
from protos.process import Closing
from protos.schema import F64
from protos.settings import save_settings
from services.replay import EmbeddedServer, ReplaySettings
from twin import labs, tasks
from twin.scene import Scene, synthetic_scene

CONTROL_PORTS = (29999, 30001, 30002, 30003, 30004, 63352)
SAMPLE_S = 0.005
MOVING_M_S = 0.005
"""Speed below which the tool stands."""
START_TIMEOUT_S = 90.0
OTHER_COMPUTER = 20
"""Real-time priority of what is no process of the arm's computer: its load must not slow the controller."""


@dataclass(frozen=True)
class Stop:
    """A standstill: how soon the tool stood, how far it went until then."""

    after_s: float
    furthest_m: float


class Observer(Closing):
    """Reads the tool at the controller, whatever the arm's program does; its times are the controller's."""

    def __init__(self, host: str) -> None:
        import rtde_receive

        self._receive = rtde_receive.RTDEReceiveInterface(
            host, -1.0, ["timestamp", "actual_TCP_pose", "actual_TCP_speed"]
        )
        self._samples: list[tuple[float, F64, float]] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="observer", daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._closing.wait(SAMPLE_S):
            place = np.array(self._receive.getActualTCPPose()[:3])
            speed = float(np.linalg.norm(self._receive.getActualTCPSpeed()[:3]))
            self._samples.append((self.now_s, place, speed))

    @property
    def now_s(self) -> float:
        """The controller's clock."""
        return float(self._receive.getTimestamp())

    @property
    def speed_m_s(self) -> float:
        """The tool's speed now."""
        return self._samples[-1][2] if self._samples else 0.0

    def forget(self) -> None:
        """Forgets what it has seen so far."""
        self._samples.clear()

    @property
    def moved_for_s(self) -> float:
        """Seconds since the tool moved for the first time; 0 before."""
        first = next((t for t, _, speed in list(self._samples) if speed > MOVING_M_S), None)
        return 0.0 if first is None else self.now_s - first

    def stop_since(self, began_s: float, until_s: float) -> Stop:
        """Returns when the tool stood for the first time, and how far it went until `until_s`."""
        samples = [one for one in list(self._samples) if began_s <= one[0] <= until_s]
        places = np.array([place for _, place, _ in samples])
        moving = [t for t, _, speed in samples if speed > MOVING_M_S]
        after_s = max(moving, default=began_s) - began_s
        return Stop(after_s, float(np.linalg.norm(places - places[0], axis=1).max()))

    def close(self) -> None:
        self._closing.set()
        self._thread.join(5)
        self._receive.disconnect()


class Program(Closing):
    """`python -m actors.real demonstrate`, and the driver that it starts; a scripted operator answers at once."""

    def __init__(self, settings: RealSettings, folder: Path) -> None:
        path = save_settings(settings, folder / "real.json")
        self.log = folder / f"real-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "actors.real", "demonstrate", "--settings", str(path), "--arm"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def driver(self) -> int:
        """The id of the driver's process, 0 while there is none."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            if b"actors.real.driver" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        return 0

    @property
    def has_begun(self) -> bool:
        """True once the arm is no longer brought to its start: an episode has begun."""
        return "an episode begins" in self.log.read_text(errors="replace")

    def said(self) -> str:
        """Returns the last line that an operator would read."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        words = [line for line in lines if "twinrl: " in line or " WARNING " in line or " ERROR " in line]
        return re.sub(r"^.*?(WARNING|ERROR) \S+: ", "", words[-1]) if words else "nothing"

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)


class Stage(Closing):
    """A stand-in behind two stretches of network, one for the arm and one for what a lab sees, and a replay."""

    def __init__(self, folder: Path, domain: str) -> None:
        self.folder = folder
        self._open = ExitStack()
        self.inner, self.host = free_host(), free_host()
        scene = folder / "scene"
        synthetic_scene().save(scene)
        self._pendant = PendantSettings.of(Scene.load(scene).robot)
        lab = labs.get(domain, tasks.get("pick_and_place"))
        settings = StandinSettings(scene=scene, lab=lab, host=self.inner, fast=False)
        standin = save_settings(settings, folder / "standin.json")
        self._start(["-m", "actors.simulated_ur", "--settings", str(standin)], (self.inner, LAB_PORT))
        self.mend_network()
        self.lab = self._proxy((LAB_PORT,))
        self.replay = self._open.enter_context(EmbeddedServer(folder / "replay"))
        self.observer = self._open.enter_context(Observer(self.inner))

    def mend_network(self) -> None:
        """Starts the network to the arm, anew where it was killed."""
        self.network = self._proxy(CONTROL_PORTS)

    def settings(self, **arm: object) -> RealSettings:
        """Returns settings that demonstrate at this arm without end."""
        return RealSettings(
            arm=ArmSettings(host=self.host, pendant=self._pendant, **arm),  # type: ignore[arg-type]
            lab=SimulatedLab(timeout_s=5.0),
            replay=ReplaySettings(urls=(self.replay.url,)),
            spool=self.folder / "spool",
            demonstrate=DemonstratePlan(episodes=500),
        )

    def close(self) -> None:
        self._open.close()

    def _proxy(self, ports: Sequence[int]) -> "subprocess.Popen[bytes]":
        numbers = [str(port) for port in ports]
        return self._start(["-m", "benchmarks.arm.proxy", self.host, self.inner, *numbers], (self.host, ports[-1]))

    def _start(self, arguments: Sequence[str], address: tuple[str, int]) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.DEVNULL)
        with suppress(PermissionError):
            os.sched_setscheduler(process.pid, os.SCHED_FIFO, os.sched_param(OTHER_COMPUTER))
        self._open.callback(process.wait)
        self._open.callback(process.kill)
        wait_for(lambda: listens(*address), f"{' '.join(arguments[:2])} listens", START_TIMEOUT_S)
        return process


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float) -> float:
    """Returns the seconds until a condition holds. Raises TwinRLError after `timeout_s`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() > began + timeout_s:
            raise TwinRLError(f"not within {timeout_s:g} s: {what}")
        time.sleep(SAMPLE_S)
    return time.monotonic() - began


def free_host() -> str:
    """Returns a loopback address of its own: the ports of a UR controller are fixed."""
    while True:
        host = f"127.{random.randint(10, 250)}.{random.randint(0, 250)}.{random.randint(2, 250)}"
        with socket.socket() as probe:
            try:
                probe.bind((host, LAB_PORT))
            except OSError:
                continue
            return host


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
