"""A person with a device in the hand takes over at any control step, acts, and gives back.

    device ─► Reading ─┬─ deadman held ─► axes × scale, turned into the base frame ─► the action, marked as human
                       ├─ released ─────► the policy goes on; a demonstrator's arm stands, and nothing is recorded
                       ├─ in trouble ───► the arm is held until a person says go, and the device is opened anew
                       └─ presses ──────► success, failure; discard, rerecord; pause; the fingers

Nothing jumps when the arm changes hands: an action moves the commanded pose on from where it is, the fingers stay as
they were told, and the stream of targets changes its velocity in small steps (`RealEnvironment.is_by_person`). Nothing
is blended either: a correction of one control step is executed whole.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from actors.human.devices import Button, Device, Kind, Reading
from actors.interfaces import EpisodeDropped
from protos.errors import InputError
from protos.schema import ACTION_DIM, F32, F64, GRIPPER_ACTION, Observation, Outcome
from protos.settings import bounded
from twin.rotations import TOOL_DOWN, about_z

log = logging.getLogger(__name__)
VERDICTS = {Button.SUCCESS: Outcome.SUCCESS, Button.FAILURE: Outcome.FAILURE}


@dataclass(frozen=True, kw_only=True)
class PersonSettings:
    """The device in a person's hand, and what its axes mean."""

    device: Kind = "spacemouse"
    node: Path | None = None
    """Its node, as in /dev/input/event7; by default the first of its kind."""
    frame: Literal["base", "tool"] = "base"
    """base: as the person sees it; tool: the same with a tool that points down, and turned along with it."""
    facing_deg: float = 0.0
    """Direction in which the person looks, about z of the base frame: 0 along +x, which is towards the demo's robot."""
    scale: float = 0.5
    """Share of the task's way per control step (30 cm/s in pick-and-place) that a full deflection asks for."""
    turn_scale: float = 0.5
    """The same of the task's turn."""

    def __post_init__(self) -> None:
        bounded(self, "person ", {"facing_deg": (-360.0, 360.0), "scale": (0.02, 1.0), "turn_scale": (0.02, 1.0)})


class Robot(Protocol):
    """The arm as a person's hand knows it."""

    is_by_person: bool
    """Set in every step in which the person acts."""

    @property
    def commanded_rotation(self) -> F64:
        """Commanded base_from_tcp (3, 3)."""
        ...

    @property
    def is_closing(self) -> bool:
        """True while the gripper is commanded to close."""
        ...

    def hold(self, why: str) -> None:
        """Holds the arm until a person says that it may go on."""
        ...


class Person:
    """Operates one slot; satisfies `actors.interfaces.Operator`. Its `robot` is set before the first step."""

    name = "person"
    robot: Robot

    def __init__(
        self,
        open_device: Callable[[], Device],
        settings: PersonSettings,
        *,
        always: bool,
        say: Callable[[str], None] = log.info,
    ) -> None:
        """Opens the device; raises as `open_device` does. With `always` it demonstrates: nobody else acts."""
        self._open, self.settings, self._always, self._say = open_device, settings, always, say
        self.device = open_device()
        self._is_in_trouble = self._acts = self._wants_closed = False
        self._seen: Reading | None = None
        self._asked: list[Button] = []
        self._toggles = 0
        self._verdict = Outcome.RUNNING
        self._base_from_device = about_z(np.radians(settings.facing_deg - 90.0))

    def override(self, slot: int, step: int, observation: Observation) -> F32 | None:
        """Returns the person's action (7,), None where the policy goes on."""
        assert slot == 0, f"slot {slot}: a person holds one arm"
        reading, self._seen = self._seen or self._look(), None
        self._change_hands(reading.deadman)
        if not (self._acts or self._always):
            return None
        self.robot.is_by_person = True
        self._wants_closed ^= bool(self._toggles % 2)
        self._toggles = 0
        return self._action(reading)

    def is_away(self) -> bool:
        """Returns True while a demonstrator does not act and the arm has to wait."""
        if self._acts or not self._always:
            return False
        reading = self._look()
        self._seen = reading if reading.deadman else None
        return self._seen is None

    def press(self, button: Button) -> None:
        """Takes a press, of the device or of a word that was typed."""
        if button is Button.GRIPPER:
            self._toggles += 1
        elif button is Button.PAUSE:
            self.robot.hold("paused by its person")
        else:
            self._asked.append(button)

    def judge(self) -> Outcome:
        """Returns what was pressed about the attempt. Raises EpisodeDropped where nothing of it is to be kept."""
        while self._asked and self._verdict is Outcome.RUNNING:
            button = self._asked.pop(0)
            self._say(f"{button}.")
            if button not in VERDICTS:
                raise EpisodeDropped(again=button is Button.RERECORD)
            self._verdict = VERDICTS[button]
        return self._verdict

    def forget(self) -> None:
        """Forgets what was pressed so far, and the verdict: another attempt begins, or a question was answered."""
        self._look()
        self._asked, self._toggles, self._seen, self._verdict = [], 0, None, Outcome.RUNNING
        self._say(self.state)

    def close(self) -> None:
        self.device.close()

    def _look(self) -> Reading:
        """Reads the device; one that is in trouble holds the arm, and is opened anew at the next look."""
        if self._is_in_trouble:
            self._open_anew()
        reading = self.device.read()
        if not reading.deadman:
            self._toggles = 0
        for button in reading.pressed:
            if button is not Button.GRIPPER or reading.deadman:
                self.press(button)
        if reading.trouble:
            self._is_in_trouble = True
            self.robot.hold(reading.trouble)
        return reading

    def _open_anew(self) -> None:
        try:
            device = self._open()
        except InputError as error:
            log.warning("%s", error)
            return
        self.device.close()
        self.device, self._is_in_trouble = device, False

    def _change_hands(self, acts: bool) -> None:
        if acts == self._acts:
            return
        self._acts = acts
        if acts:
            self._wants_closed = self.robot.is_closing
        self._say(self.state)

    @property
    def state(self) -> str:
        """The one who has the arm, in a few words."""
        return "PERSON acts" if self._acts else "the arm waits for its PERSON" if self._always else "POLICY acts"

    def _action(self, reading: Reading) -> F32:
        """Returns what the axes ask for; without the deadman the arm stands still."""
        action = np.zeros(ACTION_DIM, np.float32)
        if reading.deadman:
            turned = self._base_from_device
            if self.settings.frame == "tool":
                turned = self.robot.commanded_rotation @ TOOL_DOWN.T @ turned
            action[:3] = _within(turned @ reading.axes[:3] * self.settings.scale)
            action[3:6] = _within(turned @ reading.axes[3:] * self.settings.turn_scale)
        closes = self._wants_closed if self._acts else self.robot.is_closing
        action[GRIPPER_ACTION] = -1.0 if closes else 1.0
        return action


def _within(vector: F64) -> F64:
    """Returns a vector of the same direction whose numbers are -1 to 1."""
    return vector / max(1.0, float(np.abs(vector).max()))
