"""A fleet as a process of its own, with everything that it needs, so that tests can kill parts of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from weights_process import WeightsProcess

from actors.sim import FleetSettings, TwinWorld
from policy.model import Policy
from policy.normalize import Normalization
from policy.settings import preset
from protos.settings import save_settings, to_json
from protos.status import STATUS_VARIABLE, Status, read_status
from services.replay import ReplaySettings
from services.weights import StalenessBound, WeightPublisher

SILENT_S = 8.0


def wait_until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within_s:g} s"
        time.sleep(0.1)


def tiny_policy() -> Policy:
    policy = Policy(preset("tiny"))
    policy.set_normalization(Normalization.fit([np.random.default_rng(0).normal(size=(64, 25)).astype(np.float32)]))
    policy.freeze_backbone()
    return policy


def family_of(pid: int) -> list[psutil.Process]:
    """Returns a process's children, and the processes that the fork server of its Ray forked."""
    found = psutil.Process(pid).children(recursive=True)
    raylets = {process.pid for process in found if process.name() == "raylet"}
    for server in psutil.process_iter(["cmdline"]):
        command = " ".join(server.info["cmdline"] or [])
        if "actors.sim.fork_server" in command and any(f"/{raylet}-" in command for raylet in raylets):
            found += [server, *server.children(recursive=True)]
    return found


def workers_of(pid: int, name: str) -> list[int]:
    """Returns process ids of Ray workers with an actor of that name, by the title that Ray gives them."""
    found = []
    for process in family_of(pid):
        try:
            if f"ray::{name}" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


class FleetProcess:
    """A running fleet."""

    def __init__(self, process: "subprocess.Popen[bytes]", run_dir: Path) -> None:
        self.process, self.run_dir = process, run_dir

    @property
    def status(self) -> Status | None:
        return read_status(self.run_dir / "fleet.status.json")

    @property
    def waits_for(self) -> str:
        return "" if self.status is None else self.status.waiting_for

    def family(self) -> list[psutil.Process]:
        return family_of(self.process.pid)

    def workers(self, name: str) -> list[int]:
        return workers_of(self.process.pid, name)

    def end(self) -> None:
        family = self.family() if self.process.poll() is None else []
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            for left in [self.process, *family]:
                if psutil.pid_exists(left.pid):
                    os.kill(left.pid, signal.SIGKILL)


@contextmanager
def running_fleet(
    world: TwinWorld, replay: ReplaySettings, weights: WeightsProcess, run_dir: Path, *program: str, **changes: object
) -> Iterator[FleetProcess]:
    """Runs two actors with two twins each, and a policy published; `program` gets the settings file last."""
    policy = tiny_policy()
    publisher = WeightPublisher(weights.address, wire_dtype="f32")
    publisher.publish(policy.parts(), settings={"policy": to_json(policy.settings)})
    defaults = {"actors": 2, "twins_per_actor": 2, "staleness": StalenessBound(silent_s=SILENT_S)}
    settings = FleetSettings(
        world=world, replay=replay, weights=weights.address, run_dir=run_dir, **(defaults | changes)
    )
    path = save_settings(settings, run_dir / "fleet.json")
    command = [sys.executable, *(program or ("-m", "actors.sim", "fleet", "--settings")), str(path)]
    environment = os.environ | {STATUS_VARIABLE: str(run_dir / "fleet.status.json")}
    with (run_dir / "fleet.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        fleet = FleetProcess(process, run_dir)
        try:
            yield fleet
        finally:
            fleet.end()
            publisher.close()
