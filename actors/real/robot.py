"""Everything that belongs to one arm, opened together and closed together, whatever happens in between."""

import logging
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np

from actors.human.scripted import Eyes, ScriptedOperator
from actors.interfaces import Operator
from actors.real.arm import UrArm
from actors.real.bench import BenchClient
from actors.real.cameras import BenchCameras, Cameras, UsbCameras
from actors.real.environment import RealEnvironment
from actors.real.gripper import RobotiqGripper
from actors.real.hands import BenchHands, ConsoleHands, Hands
from actors.real.safety import Limits
from actors.real.settings import ConsoleLab, RealSettings
from protos.errors import InputError
from twin import tasks

log = logging.getLogger(__name__)


class Robot:
    """The arm, its gripper, its cameras and the person at the table. A context manager: leaving it holds the arm."""

    def __init__(self, settings: RealSettings, *, disturbance: float = 0.0) -> None:
        """Connects; moves nothing. Raises InputError with a word about `--arm` when it is not allowed to move."""
        self.settings, self.task = settings, tasks.get(settings.task)
        self._open = ExitStack()
        try:
            self._connect(disturbance)
        except BaseException:
            self._open.close()
            raise

    def _connect(self, disturbance: float) -> None:
        settings = self.settings
        limits = Limits(self.task.work_box, settings.limits)
        self.arm = self._open.enter_context(UrArm(settings.arm, limits, armed=settings.armed))
        self._describe()
        if not settings.armed:
            raise InputError('the arm is not armed: clear the workspace, then start with "--arm" (or armed: true)')
        gripper = RobotiqGripper(settings.arm.host, settings.gripper)
        self._open.callback(gripper.close)
        gripper.activate()
        cameras, hands, self._eyes = self._lab()
        self._open.callback(cameras.close)
        self.environment = RealEnvironment(
            self.arm, gripper, cameras, hands, self.task, disturbance=disturbance, seed=settings.seed
        )

    def _lab(self) -> tuple[Cameras, Hands, Eyes | None]:
        settings, lab = self.settings, self.settings.lab
        if isinstance(lab, ConsoleLab):
            return UsbCameras(lab.side, lab.wrist, settings.schema), ConsoleHands(), None
        bench = BenchClient(settings.arm.host, lab.port, timeout_s=lab.timeout_s)
        self._open.callback(bench.close)
        return BenchCameras(bench, settings.schema), BenchHands(bench), bench

    def operator(self, *, always: bool) -> Operator | None:
        """The operator of the settings, None when nobody watches; with `always` a demonstrator."""
        if self.settings.operator == "none":
            return None
        if self._eyes is None:
            raise InputError('operator "scripted" sees objects only on the stand-in (lab "bench"); choose "none"')
        takeover = replace(self.settings.takeover, always=always)
        return ScriptedOperator(self.task, self.environment, self._eyes, takeover)

    def _describe(self) -> None:
        state = self.arm.observe()
        position, joints = np.round(state.pose[:3], 3).tolist(), np.round(np.degrees(state.joints), 1).tolist()
        log.info("arm at %s: TCP %s m, joints %s degrees", self.settings.arm.host, position, joints)

    def summary(self) -> str:
        """What the safety layer did, in one line."""
        clipped = ", ".join(f"{count} by {name}" for name, count in self.arm.limits.clipped.items()) or "none"
        stopped = f"stopped by a limit {self.environment.stops} times"
        return f"commands clipped: {clipped}; held by the watchdog {self.arm.holds} times; {stopped}"

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
