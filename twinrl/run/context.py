"""This module holds what every stage is given: the settings, the supervisor of child processes, the services.

A service (replay, weights, guide) is started when the first stage needs it. It is a process of its own with its state
on disk and a fixed address, so that the supervisor can start it again after a crash and its clients find it where it
was.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from actors.real import Station
from protos.errors import Unreachable
from protos.files import short_folder
from protos.settings import save_settings
from services.guide import GuideSettings
from services.net import free_port
from services.replay import ReplaySettings, totals
from twinrl.run.settings import RunSettings
from twinrl.run.supervisor import Child, Supervisor, python_module


class WorldSeed(IntEnum):
    """The seeds of a run's worlds, which draw initial states and noise; two policies that are compared share one."""

    TWIN_DEMONSTRATIONS = 1
    TWIN_RL = 2
    ARM_RL = 3
    TWIN_BESIDE_ARM = 4
    ARM_DEMONSTRATIONS = 77
    EVALUATE_SFT = 5000
    EVALUATE_TWIN_RL = 7000
    EVALUATE_ON_ARM = 9000


DEMONSTRATIONS_TIMEOUT_S = 600.0
"""Deadline of the demonstrations of one world."""
REPLAY_TIMEOUT_S = 60.0
"""Deadline of the replay to listen, then to read its log; a client gives up earlier on a busy machine."""
RL_TIMEOUT_S = 7200.0
"""Deadline of a stage of reinforcement learning."""
PERSON_TIMEOUT_S = 86_400.0
"""Deadline of whatever waits for a person."""


class Services:
    """Starts the services of a run and knows their addresses."""

    def __init__(self, folder: Path, settings: RunSettings, supervisor: Supervisor) -> None:
        self._folder, self._settings, self._supervisor = folder, settings, supervisor
        self._addresses: dict[str, str] = {}
        self._replay: ReplaySettings | None = None

    def replay(self) -> ReplaySettings:
        """Returns the settings of the run's replay; starts an embedded Valkey unless a URL was given."""
        if self._replay is None:
            self._replay = ReplaySettings(
                urls=self._settings.replay or (self._start_valkey(),),
                prefix=self._settings.prefix,
                credentials=self._settings.credentials,
            )
        return self._replay

    def weights(self) -> str:
        """Returns host:port of the weights service."""
        return self._start("weights", "services.weights", "--store", str(self._folder / "weights"))

    def guide(self, settings: GuideSettings) -> str:
        """Returns host:port of the guide."""
        path = save_settings(settings, self._folder / "guide" / "settings.json")
        kept = ("--state", str(path.with_name("state.json")), "--history", str(path.parent))
        return self._start("guide", "services.guide", "--settings", str(path), *kept)

    def _start(self, name: str, module: str, *arguments: str) -> str:
        if name not in self._addresses:
            address = f"127.0.0.1:{free_port()}"
            command = python_module(module, "--listen", address, *arguments)
            self._supervisor.start(Child(name=name, command=command, service=True))
            self._supervisor.wait_listening(name, address)
            self._addresses[name] = address
        return self._addresses[name]

    def _start_valkey(self) -> str:
        socket = short_folder("twinrl-", len("/replay.sock")) / "replay.sock"  # a run's own folder may be too long
        directory = self._folder / "replay"
        command = python_module("services.replay", "--directory", str(directory), "--socket", str(socket))
        self._supervisor.start(Child(name="replay", command=command, service=True))
        self._supervisor.wait_listening("replay", str(socket), timeout_s=REPLAY_TIMEOUT_S)
        self._await_data(url := f"unix://{socket}")
        return url

    def _await_data(self, url: str) -> None:
        """Returns once the replay has read its log, which takes a few seconds per gigabyte."""
        deadline = time.monotonic() + REPLAY_TIMEOUT_S
        while True:
            self._supervisor.check()
            try:
                totals(ReplaySettings(urls=(url,)))
                return
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """A run under way."""

    folder: Path
    settings: RunSettings
    supervisor: Supervisor
    services: Services
    station: Station | None = None
    """The lab's arm with its operator; without one every use of an arm starts a stand-in."""
    is_armed: bool = False
    """Consent of the operator for this life of the run: the station's arm may move."""

    def start(
        self,
        name: str,
        module: str,
        *command: str,
        settings: Any,
        arguments: Sequence[str] = (),
        expendable: bool = False,
        terminal: bool = False,
    ) -> None:
        """Starts `python -m module command… --settings <file> arguments…` as the child `name`."""
        path = save_settings(settings, self.folder / "settings" / f"{name}.json")
        line = python_module(module, *command, "--settings", str(path), *arguments)
        self.supervisor.start(Child(name=name, command=line, expendable=expendable, terminal=terminal))

    def timeout_s(self, standin_s: float) -> float:
        """Returns the deadline of what the arm has a part in: `standin_s`, unless a person does it."""
        return standin_s if self.station is None else PERSON_TIMEOUT_S

    def world_seed(self, world: WorldSeed) -> int:
        """Returns the seed of a world of this run."""
        return self.settings.seed * 100 + world
