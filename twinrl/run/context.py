"""What every stage is given: the settings, the supervisor of the child processes, the services."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.settings import save_settings
from twinrl.run.services import Services
from twinrl.run.settings import RunSettings
from twinrl.run.supervisor import Child, Supervisor, python_module


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """One run under way."""

    settings: RunSettings
    supervisor: Supervisor
    services: Services

    @property
    def folder(self) -> Path:
        return self.settings.folder

    def start(
        self, name: str, module: str, *command: str, settings: Any, arguments: Sequence[str] = (), service: bool = False
    ) -> None:
        """Starts `python -m module command… --settings <file> arguments…` as the child `name`."""
        path = save_settings(settings, self.folder / "settings" / f"{name}.json")
        line = python_module(module, *command, "--settings", str(path), *arguments)
        self.supervisor.start(Child(name=name, command=line, service=service))

    def run_child(self, name: str, module: str, *arguments: str, timeout_s: float = 3600) -> None:
        """Runs `python -m module arguments…` to its end."""
        self.supervisor.start(Child(name=name, command=python_module(module, *arguments)))
        self.supervisor.wait(name, timeout_s=timeout_s)
