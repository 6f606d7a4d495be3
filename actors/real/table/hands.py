"""This module asks for what hands and eyes do at the table: placing objects, judging the task, saying "go on".

LabHands       the stand-in's lab does it at once
ConsoleHands   an operator at this terminal does
PersonHands    one of both, where a person with a device judges by its buttons, and by words at the terminal

The word that lets the arm move differs from the letters that judge, so that none of them can be taken for another.
"""

import logging
from typing import Protocol

from actors.human import Person
from actors.human.devices import WORDS
from actors.lab import LabClient
from actors.real.table.terminal import Terminal
from protos.schema import Configuration, Outcome
from twin.tasks import TOOL

log = logging.getLogger(__name__)

GO = "go"
VERDICTS = {"s": Outcome.SUCCESS, "f": Outcome.FAILURE}


class Hands(Protocol):
    """The person at the table."""

    def go_on(self, reason: str) -> None:
        """Returns once a person has said that the arm may move; it stands still because of `reason`."""
        ...

    def place(self, configuration: Configuration) -> None:
        """Returns once the objects stand where the configuration says and a person has said that the arm may move."""
        ...

    def judge(self) -> Outcome:
        """Returns SUCCESS if the task is solved now, FAILURE if it was given up, else RUNNING; does not wait."""
        ...


class LabHands:
    """Places and judges through the stand-in's lab protocol."""

    def __init__(self, lab: LabClient) -> None:
        self._lab = lab

    def go_on(self, reason: str) -> None:
        """Logs the reason: the stand-in hurts nobody, and holding where it stands is enough to free its tool."""
        log.info("scripted operator: go on (%s)", reason)

    def place(self, configuration: Configuration) -> None:
        self._lab.place(configuration)

    def judge(self) -> Outcome:
        return Outcome.SUCCESS if self._lab.success() else Outcome.RUNNING


class ConsoleHands:
    """Asks the operator at the terminal, and takes fresh answers only."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._verdict = Outcome.RUNNING
        self._may_judge = False

    def go_on(self, reason: str) -> None:
        self._may_judge = False
        self._terminal.say(f"\nTHE ARM IS HELD: {reason}.")
        self._terminal.ask(f"Clear its way, leave its reach, then type {GO} and Enter: the arm moves.", GO)
        self._terminal.say("The arm moves.")

    def place(self, configuration: Configuration) -> None:
        self._verdict, self._may_judge = Outcome.RUNNING, False
        self._terminal.say("\nPlace the objects (base frame):")
        for name, (x, y, _, yaw) in configuration.poses.items():
            if name != TOOL:
                place = f"x = {x * 100:.1f} cm, y = {y * 100:.1f} cm, turned {yaw * 57.3:.0f} degrees"
                self._terminal.say(f"  {name}: {place}")
        self._terminal.ask(f"Leave the arm's reach, then type {GO} and Enter: the arm moves.", GO)
        self._terminal.say("The arm moves.")

    def judge(self) -> Outcome:
        """Takes what was typed after the first step of the episode, and after the last question."""
        if not self._may_judge:
            self._may_judge = True
            self._terminal.forget()
            self._terminal.say("s and Enter: the task is solved. f and Enter: it has failed. Ctrl-C: hold and end.")
        while self._verdict is Outcome.RUNNING and (line := self._terminal.line()) is not None:
            self._verdict = VERDICTS.get(line, Outcome.RUNNING)
            is_judged = self._verdict is not Outcome.RUNNING
            what = f"{self._verdict.value}; stay clear until you are asked" if is_judged else "ignored: s or f judges"
            self._terminal.say(f'"{line}": {what}.')
        return self._verdict


class PersonHands:
    """Asks as other hands do; the attempt is judged by the person who acts. Presses count as typed words do."""

    def __init__(self, hands: Hands, person: Person, terminal: Terminal | None) -> None:
        """`terminal` is where a person without a keyboard in the hand types; the stand-in's lab has none."""
        self._hands, self._person = hands, person
        self._terminal = None if person.device.is_terminal else terminal
        self._is_console = terminal is not None
        self._may_judge = False

    def go_on(self, reason: str) -> None:
        self._may_judge = False
        self._hands.go_on(reason)

    def place(self, configuration: Configuration) -> None:
        self._may_judge = False
        self._hands.place(configuration)

    def judge(self) -> Outcome:
        """Takes what was pressed or typed after the last question, as ConsoleHands does. Raises as `Person.judge`."""
        if not self._may_judge:
            self._begin()
        while self._terminal is not None and (line := self._terminal.line()) is not None:
            if (button := WORDS.get(line)) is not None:
                self._person.press(button)
            else:
                self._terminal.say(f'"{line}": ignored: {", ".join(WORDS)} and Enter judge.')
        verdict = self._person.judge()
        return verdict if self._is_console or verdict is not Outcome.RUNNING else self._hands.judge()

    def _begin(self) -> None:
        self._may_judge = True
        self._person.forget()
        if self._terminal is not None:
            self._terminal.forget()
            means = ", ".join(f"{word} {button}" for word, button in WORDS.items())
            self._terminal.say(f"With Enter: {means}. Ctrl-C: hold and end.")
