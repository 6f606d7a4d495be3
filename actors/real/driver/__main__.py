"""`python -m actors.real.driver FD` drives one arm for the process at the other end of an inherited socket.

    ArmClient ── connect ──► owner, arm.UrArm        answered when the arm is there, or with the reason why not
              ── servo … ──► one call at a time      while it moves the arm, the socket is looked at in every slice:
                                                     beats show that the caller lives; anything else interrupts it
              ── end ──────► hold, leave

It is started by `client.ArmClient` in a session of its own, where no terminal reaches it, and imports neither policies
nor services. It asks for real-time priority and does without where that is not allowed.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NoReturn

import numpy as np

from actors.real.arm import ArmSettings, UrArm
from actors.real.driver.owner import Owner
from actors.real.driver.priority import ask_for_priority
from actors.real.driver.wire import ClosedError, Message, Wire, error_message
from actors.real.safety import Limits, LimitSettings
from protos.errors import CorruptData, TwinRLError
from protos.process import LOG_FORMAT, interrupt_on_signal
from protos.schema import F64
from protos.settings import from_json
from protos.space import Box

log = logging.getLogger(__name__)
LONGEST_S = 60.0
"""Longest time that one call may ask for."""


class Caller:
    """The process at the other end, as it is heard while the arm moves."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.patience_s = float("inf")
        """Longest silence of a caller that waits for an answer."""
        self._heard, self._waiting = time.monotonic(), list[Message]()

    def next(self) -> Message:
        """Returns the next call. Raises ClosedError when the caller has left."""
        while True:
            message = self._waiting.pop(0) if self._waiting else self._wire.receive(None)
            if message is not None and not _is_beat(message):
                self._heard = time.monotonic()
                return message

    def interruption(self) -> str:
        """Returns why a motion under way must end now; empty while the caller lives and waits."""
        try:
            while (message := self._wire.receive(0.0)) is not None:
                self._heard = time.monotonic()
                if not _is_beat(message):
                    self._waiting.append(message)
        except ClosedError:
            return "the program that drives the arm has ended"
        if self._waiting:
            return "the program was interrupted while the arm moved"
        silent_s = time.monotonic() - self._heard
        return f"no sign of the program for {silent_s * 1e3:.0f} ms" if silent_s > self.patience_s else ""


def serve(wire: Wire) -> None:
    """Connects the arm as the first message says and answers calls until the caller leaves, then holds the arm."""
    caller = Caller(wire)
    call = caller.next()
    with ExitStack() as stack:
        try:
            arm = _connect(call, caller, stack)
        except TwinRLError as error:
            wire.send({"call": call.get("call")} | error_message(error))
            caller.next()  # raises when the caller has read why, and left
            return
        _answer(wire, arm, call, lambda _: None)
        _serve_calls(wire, caller, arm)


def _connect(call: Message, caller: Caller, stack: ExitStack) -> UrArm:
    settings = from_json(ArmSettings, call.get("arm", {}), "arm")
    box, limits = from_json(Box, call.get("box", {}), "box"), from_json(LimitSettings, call.get("limits", {}), "limits")
    stack.enter_context(Owner(settings.host, pid=os.getppid()))
    is_armed = call.get("armed") is True
    arm = UrArm(settings, Limits(box, limits), armed=is_armed, interruption=caller.interruption)
    caller.patience_s = settings.hold_after_s
    return stack.enter_context(arm)


def _serve_calls(wire: Wire, caller: Caller, arm: UrArm) -> None:
    operations = _operations(arm)
    while True:
        call = caller.next()
        operation = operations.get(str(call.get("op")))
        if operation is None:
            raise CorruptData(f"the arm's driver knows no call {call.get('op')!r}")
        _answer(wire, arm, call, operation)
        if call["op"] == "close":
            return


def _operations(arm: UrArm) -> dict[str, Callable[[Message], Any]]:
    return {
        "observe": lambda _: _state(arm),
        "time_s": lambda _: arm.time_s,
        "held": lambda _: None,  # every answer tells it, and the anchor
        "can_be_commanded": lambda _: arm.can_be_commanded(),
        "servo": lambda call: _servo(arm, call),
        "rest": lambda call: arm.rest(_seconds(call, "seconds")),
        "move_to": lambda call: arm.move_to(_pose(call)),
        "hold": lambda call: arm.hold(str(call.get("why"))),
        "release": lambda _: arm.release(),
        "close": lambda _: arm.try_to_hold("closing"),
    }


def _answer(wire: Wire, arm: UrArm, call: Message, operation: Callable[[Message], Any]) -> None:
    """Executes a call and answers it, with what the caller always wants to know."""
    try:
        answer = {"value": operation(call)}
    except CorruptData:
        raise
    except TwinRLError as error:
        answer = error_message(error)
    told = {"anchor": arm.anchor().tolist(), "held": arm.held, "holds": arm.holds, "clipped": dict(arm.limits.clipped)}
    wire.send({"call": call.get("call"), **answer, **told})


def _servo(arm: UrArm, call: Message) -> dict[str, Any]:
    reached = arm.servo(_pose(call), _seconds(call, "period_s"), is_gentle=call.get("is_gentle") is True)
    return {"reached": reached.tolist(), **_state(arm)}


def _state(arm: UrArm) -> dict[str, Any]:
    state = arm.observe()
    return {
        "t": state.t,
        "joints": state.joints.tolist(),
        "pose": state.pose.tolist(),
        "velocity": state.velocity.tolist(),
        "wrench": state.wrench.tolist(),
    }


def _pose(call: Message) -> F64:
    try:
        pose = np.array(call.get("pose"), float)
    except (TypeError, ValueError) as error:
        raise CorruptData(f"call {call.get('op')!r}: pose {call.get('pose')!r} holds no numbers") from error
    if pose.shape != (6,):
        raise CorruptData(f"call {call.get('op')!r}: pose {call.get('pose')!r} is not 6 numbers")
    return pose


def _seconds(call: Message, name: str) -> float:
    seconds = call.get(name)
    if not isinstance(seconds, float | int) or not 0 < seconds <= LONGEST_S:
        raise CorruptData(f"call {call.get('op')!r}: {name}={seconds!r} must be above 0 and at most {LONGEST_S:g}")
    return float(seconds)


def _is_beat(message: Message) -> bool:
    return message.get("op") == "beat"


def _leave(code: int) -> NoReturn:
    """Ends at once: ur_rtde's threads can abort an interpreter that is torn down after the link was lost."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


def main(fd: int) -> int:
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    interrupt_on_signal()
    ask_for_priority()
    try:
        serve(Wire(socket.socket(fileno=fd)))
    except ClosedError:
        log.debug("the program has ended; the arm is held")
    except CorruptData as error:
        log.error("%s: the arm is held and its driver ends", error)
        return 2
    except KeyboardInterrupt:
        log.info("told to end; the arm is held")
    return 0


if __name__ == "__main__":
    try:
        code = main(int(sys.argv[1]))
    except Exception:  # a bug: its traceback is told, the arm was held on the way
        log.exception("the arm's driver ends")
        code = 1
    _leave(code)
