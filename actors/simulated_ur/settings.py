"""This module holds the settings of the simulated controller."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from actors.lab import LAB_PORT
from actors.simulated_ur.pendant import Pendant
from protos.errors import InputError
from protos.schema import Schema
from twin.labs import Lab


@dataclass(frozen=True, kw_only=True)
class StandinSettings:
    """One simulated arm in a scene. Its physics and appearance differ from the twin's by `lab`."""

    scene: Path
    task: str = "pick_and_place"
    lab: Lab = field(default_factory=Lab)
    schema: Schema = field(default_factory=Schema)
    seed: int = 0
    host: str = "127.0.0.41"
    """A loopback address of its own: the ports of a UR controller are fixed."""
    lab_port: int = LAB_PORT
    fast: bool = True
    """Run ahead of the wall clock while commands are executed; False keeps to real time."""
    pendant: Pendant = field(default_factory=Pendant)
    """State of the teach pendant at the start."""

    def __post_init__(self) -> None:
        try:
            loopback = ip_address(self.host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise InputError(f"host={self.host!r}: the stand-in listens on loopback only; choose 127.0.0.N")
