"""This module holds the settings of the robot's computer, read from one JSON file."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from actors.human import PersonSettings, TakeoverSettings
from actors.lab import LAB_PORT
from actors.real.arm import ArmSettings
from actors.real.gripper import GripperSettings
from actors.real.safety import LimitSettings
from actors.real.table.cameras import UsbCameraSettings
from actors.real.table.proposing import ProposalSettings
from protos.errors import InputError
from protos.folders import check_key
from protos.schema import Schema
from services.net import Credentials
from services.replay import ReplaySettings
from services.weights import StalenessBound


@dataclass(frozen=True, kw_only=True)
class SimulatedLab:
    """The stand-in's cameras and hands, at the address of the arm."""

    kind: Literal["simulated"] = "simulated"
    port: int = LAB_PORT
    timeout_s: float = 5.0
    mended_within_s: float = 60.0
    """Time after which a stop ends the session: nobody stands at the stand-in to wait for."""


@dataclass(frozen=True, kw_only=True)
class ConsoleLab:
    """USB cameras, and an operator at the terminal who places objects and judges."""

    side: UsbCameraSettings
    wrist: UsbCameraSettings
    references: Path = Path("cameras")
    """Folder of side.png and wrist.png, by which the cameras are told apart; a start without `--arm` makes them."""
    kind: Literal["console"] = "console"

    def __post_init__(self) -> None:
        if _device(self.side.device) == _device(self.wrist.device):
            raise InputError(
                f"lab side and wrist: {self.side.device!r} and {self.wrist.device!r} are one camera; name another"
            )


def _device(name: str) -> str:
    """Returns one name for a camera that can be named by its number, its path and links to it."""
    path = f"/dev/video{int(name)}" if name.isdigit() else name
    return os.path.realpath(path) if path.startswith("/") else path


@dataclass(frozen=True, kw_only=True)
class DemonstratePlan:
    """Successful demonstrations to the buffer "demo"; the operator acts in every step."""

    episodes: int = 30
    region: str = "A"
    disturbance: float = 0.3
    """Strength of the motion noise that a scripted demonstrator corrects, in units of the action; a person has none."""
    failures: bool = False
    """Attempts that were judged a failure go to the buffer "real": near misses for `twinrl reward train`."""
    out: Path | None = None
    """One JSON line per attempt. What is there already counts: recording goes on where it was stopped."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise InputError(f"demonstrate.episodes={self.episodes}: at least 1")


@dataclass(frozen=True, kw_only=True)
class EvaluatePlan:
    """The policy alone, without exploration and without an operator."""

    out: Path
    """One JSON line per episode."""
    resume: bool = False
    """Go on behind the episodes that `out` has; otherwise all of them are run and `out` is written anew."""
    configurations: Path | None = None
    """JSON list of configurations; by default `rollouts` spread over each of `regions`."""
    rollouts: int = 40
    """Per region."""
    regions: tuple[str, ...] = ()
    """Empty: all regions of the task."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """Practice from the guide's starts; everything goes to the replay."""

    out: Path
    """One JSON line per episode."""
    env_steps: int = 2_000
    """Ends after the episode in which so many transitions are reached."""
    explore: float = 0.05
    """Standard deviation of the noise added to the policy's translation, in action units."""

    def __post_init__(self) -> None:
        if not 0 <= self.explore <= 1:
            raise InputError(f"train.explore={self.explore}: a standard deviation in action units, 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Station:
    """One arm with what stands around it, whatever it is used for: gripper, limits, cameras and hands, operator."""

    arm: ArmSettings = field(default_factory=ArmSettings)
    gripper: GripperSettings = field(default_factory=GripperSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    lab: SimulatedLab | ConsoleLab = field(default_factory=SimulatedLab)
    reward: ProposalSettings | None = None
    """Classifier that proposes at a console that the task is solved; the stand-in judges by itself."""
    operator: Literal["scripted", "person", "none"] = "scripted"
    """Operator that demonstrates or may take over; the scripted one sees objects on the stand-in only."""
    takeover: TakeoverSettings = field(default_factory=TakeoverSettings)
    """Conditions under which the scripted operator acts."""
    person: PersonSettings = field(default_factory=PersonSettings)
    """The person's device."""


@dataclass(frozen=True, kw_only=True)
class RealSettings(Station):
    """One station and its jobs. Every mode reads its own plan and leaves the others out."""

    name: str = "robot-0"
    """The actor's name in the replay."""
    task: str = "pick_and_place"
    scene: str = "real"
    """Name of the scene, stored with every segment."""
    schema: Schema = field(default_factory=Schema)
    seed: int = 0
    armed: bool = False
    """True lets the arm move; set by the operator who has cleared the workspace (or `--arm`)."""
    replay: ReplaySettings | None = None
    spool: Path | None = None
    """Folder that keeps segments until the replay has them."""
    weights: str = ""
    """host:port of the weights service; the policy follows it."""
    policy: Path | None = None
    """Folder written by the learner, instead of `weights`."""
    first_weights_timeout_s: float = 60.0
    staleness: StalenessBound = field(default_factory=StalenessBound)
    """Bound on the weights' staleness; with older ones no episode begins."""
    guide: str = ""
    """host:port of the guide service."""
    credentials: Credentials = field(default_factory=Credentials)
    """Credentials for the guide and the weights service."""
    demonstrate: DemonstratePlan | None = None
    evaluate: EvaluatePlan | None = None
    train: TrainPlan | None = None

    def __post_init__(self) -> None:
        check_key("name", self.name)
        if self.reward is not None and isinstance(self.lab, SimulatedLab):
            raise InputError(f"reward {self.reward.folder}: the stand-in judges by itself; a classifier needs cameras")
