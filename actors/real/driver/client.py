"""This module is the arm as the main process sees it: calls that the driver's process executes.

    servo(pose) ── {"op": "servo", …} ──► driver        while the answer is awaited, a beat tells it that we live
                ◄── {"value": …, …} ─────

A driver that ends or stays silent is an ArmStopped; by then the controller's own watchdog has stopped the arm.
"""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any, Protocol

import numpy as np

from actors.real.arm import ArmSettings
from actors.real.driver.wire import BEAT, ClosedError, Message, Wire, raise_error
from actors.real.link import ArmState
from actors.real.safety import Limits
from protos.errors import ArmStopped, CorruptData
from protos.process import Closing
from protos.schema import F64
from protos.settings import to_json

log = logging.getLogger(__name__)
BEATS_PER_SILENCE = 5
"""Number of beats in the time after which the driver takes silence for the end of its caller."""
FRESH_S = 0.01
"""A state that an answer told is the newest for so long."""
GRACE_S = 2.0
"""The driver's own deadlines end first: it knows more of the reason."""


class Arm(Protocol):
    """One arm, in this process (`arm.UrArm`) or behind its driver's (`ArmClient`)."""

    limits: Limits
    holds: int

    @property
    def held(self) -> str: ...
    @property
    def time_s(self) -> float: ...
    def observe(self) -> ArmState: ...
    def can_be_commanded(self) -> bool: ...
    def anchor(self) -> F64: ...
    def servo(self, target: F64, period_s: float, *, is_gentle: bool = False) -> F64: ...
    def rest(self, seconds: float) -> None: ...
    def move_to(self, pose: F64) -> None: ...
    def hold(self, why: str) -> None: ...
    def try_to_hold(self, why: str) -> None: ...
    def release(self) -> None: ...
    def close(self) -> None: ...


class ArmClient(Closing):
    """Starts a driver and calls it; the methods are those of `arm.UrArm`, with the same errors.

    `limits` of this side tell the work box and count what the driver's clipped. One call at a time; one that is
    interrupted (Ctrl-C) interrupts the motion too.
    """

    def __init__(self, settings: ArmSettings, limits: Limits, *, armed: bool) -> None:
        """Starts the driver, which connects; moves nothing. Raises as `arm.UrArm` does."""
        self.settings, self.limits = settings, limits
        self.holds = 0
        self._lock = threading.RLock()
        self._calls, self._anchor = 0, np.zeros(6)
        self._held, self._answered = "", 0.0
        self._state: ArmState | None = None
        self._clock: tuple[float, float] | None = None
        self._wire, there = Wire.pair()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "actors.real.driver", str(there.fileno())],
                pass_fds=(there.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        try:
            self._call(
                "connect",
                within_s=6 * settings.connect_timeout_s,
                arm=to_json(settings),
                limits=to_json(limits.settings),
                box=to_json(limits.box),
                armed=armed,
            )
        except BaseException:
            self._end_process()
            raise

    # --- reading

    def observe(self) -> ArmState:
        """Returns the newest state; after a servo, the one that its answer told a moment ago."""
        if self._state is None or time.monotonic() - self._answered > FRESH_S:
            self._state = self._told(self._call("observe"))
        return self._state

    @property
    def worked_s(self) -> float:
        """Seconds of the robot's clock from the first state that was told to the newest one."""
        return 0.0 if self._clock is None else self._clock[1] - self._clock[0]

    def can_be_commanded(self) -> bool:
        return bool(self._call("can_be_commanded"))

    @property
    def time_s(self) -> float:
        return float(self._call("time_s"))

    @property
    def held(self) -> str:
        """The reason of a hold, as an answer told it a moment ago or the driver tells now."""
        if time.monotonic() - self._answered > self.settings.hold_after_s / BEATS_PER_SILENCE:
            self._call("held")
        return self._held

    def anchor(self) -> F64:
        """Returns the pose (6,) that the next command starts from, as the newest answer told it.

        What changes it without a call is a hold, after which the driver refuses motion until `release`.
        """
        return self._anchor.copy()

    # --- moving

    def servo(self, target: F64, period_s: float, *, is_gentle: bool = False) -> F64:
        wanted = {"pose": target.tolist(), "period_s": period_s, "is_gentle": is_gentle}
        answer: dict[str, Any] = self._call("servo", within_s=period_s, **wanted)
        reached = np.array(answer.pop("reached"))
        self._state = self._told(answer)
        return reached

    def rest(self, seconds: float) -> None:
        self._call("rest", within_s=seconds, seconds=seconds)

    def move_to(self, pose: F64) -> None:
        self._call("move_to", within_s=self.settings.move_timeout_s, pose=pose.tolist())

    def hold(self, why: str) -> None:
        self._call("hold", why=why)

    def try_to_hold(self, why: str) -> None:
        try:
            self.hold(why)
        except ArmStopped as error:
            log.info("hold (%s): %s", why, error)

    def release(self) -> None:
        self._call("release", within_s=self.settings.connect_timeout_s)

    def close(self) -> None:
        """Holds the arm and ends the driver."""
        try:
            if self._process.poll() is None:
                self._call("close")
        except ArmStopped as error:
            log.info("closing: %s", error)
        finally:
            self._end_process()

    # --- inside

    def _call(self, op: str, *, within_s: float = 0.0, **arguments: Any) -> Any:
        """Returns the driver's answer. Raises the error that it tells, ArmStopped when it tells nothing."""
        with self._lock:
            self._calls += 1
            self._state = None
            try:
                self._wire.send({"call": self._calls, "op": op, **arguments})
                answer = self._awaited(within_s + self.settings.connect_timeout_s + GRACE_S)
            except ClosedError:
                raise ArmStopped(f"the arm's driver has ended ({self._exit()}); the controller stops the arm") from None
            except CorruptData as error:
                raise ArmStopped(str(error)) from error
            if "anchor" in answer:
                self._anchor, self.holds = np.array(answer["anchor"]), int(answer["holds"])
                self._held, self._answered = str(answer["held"]), time.monotonic()
                self.limits.clipped = Counter(answer["clipped"])
            raise_error(answer)
            return answer.get("value")

    def _awaited(self, within_s: float) -> Message:
        """Returns the answer to the newest call; the driver hears from us while we wait."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            answer = self._wire.receive(self.settings.hold_after_s / BEATS_PER_SILENCE)
            if answer is None:
                with contextlib.suppress(ClosedError):  # what it said before it left is read first
                    self._wire.send(BEAT)
            elif answer.get("call") == self._calls:
                return answer
        raise ArmStopped(f"the arm's driver does not answer (deadline {within_s:g} s); the controller stops the arm")

    def _exit(self) -> str:
        try:
            return f"exit status {self._process.wait(1.0)}"
        except subprocess.TimeoutExpired:
            return "it is still there"

    def _end_process(self) -> None:
        """Lets the driver hold the arm and leave; ends one that does not."""
        self._wire.close()
        try:
            self._process.wait(4 * self.settings.connect_timeout_s)
        except subprocess.TimeoutExpired:
            log.warning("the arm's driver does not leave: killed")
            self._process.kill()
            self._process.wait()

    def _told(self, told: dict[str, Any]) -> ArmState:
        state = ArmState(t=told.pop("t"), **{name: np.array(numbers) for name, numbers in told.items()})
        self._clock = (state.t if self._clock is None else self._clock[0], state.t)
        return state
