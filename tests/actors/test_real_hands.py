"""Questions at a terminal: stale, early, doubled and wrong answers, on a pty and on a pipe."""

import os
import threading
import time

import pytest
from keyboard import Keyboard

from actors.real.table.hands import ConsoleHands
from actors.real.table.terminal import READING_S, Terminal
from protos.errors import InputError
from protos.schema import Configuration, Outcome

POSES = {"cube": (-0.5, 0.1, 0.018, 0.5), "target": (-0.4, 0.0, 0.001, 0.0), "tool": (-0.54, 0.0, 0.16, 0.0)}
START = Configuration(region="A", poses=POSES)
QUESTIONS = {"go_on": lambda hands: hands.go_on("the first motion"), "place": lambda hands: hands.place(START)}
ASKS, PLACE, JUDGES = "type go and Enter", "Place the objects", "s and Enter: the task is solved"
ABOVE_READING_S = READING_S + 0.2


@pytest.fixture
def keyboard():
    keyboard = Keyboard()
    yield keyboard
    keyboard.close()


@pytest.fixture
def hands(keyboard):
    return ConsoleHands(Terminal(keyboard.slave, keyboard.slave))


class Asked:
    """A question in a thread of its own."""

    def __init__(self, question):
        self.error = None
        self._thread = threading.Thread(target=self._run, args=(question,), daemon=True)
        self._thread.start()

    def _run(self, question):
        try:
            question()
        except InputError as error:
            self.error = error

    @property
    def is_open(self):
        return self._thread.is_alive()

    def wait(self):
        self._thread.join(20)
        assert not self.is_open, "nobody took the answer"
        return self.error


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("stale", ["\n", "\n\n\n", "go\n", "go\ngo\n", "g", "s\n", "yes\n"])
def test_what_was_typed_before_a_question_never_answers_it(question, stale, hands, keyboard):
    keyboard.type(stale)
    time.sleep(0.1)
    asked = Asked(lambda: QUESTIONS[question](hands))
    place = keyboard.wait_for(ASKS)
    time.sleep(ABOVE_READING_S)
    assert asked.is_open
    keyboard.type("go\n")
    assert asked.wait() is None
    assert "does not answer" not in keyboard.screen[place:], "the fresh answer alone was read"


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_that_bounces_or_comes_before_reading_is_told_and_does_not_count(question, hands, keyboard):
    asked = Asked(lambda: QUESTIONS[question](hands))
    keyboard.wait_for(ASKS)
    keyboard.type("go\n\n")
    keyboard.wait_for("Too early")
    time.sleep(ABOVE_READING_S)
    assert asked.is_open
    keyboard.type("go\n")
    assert asked.wait() is None


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("wrong", ["", "s", "f", "y", "yes", "og", "go on"])
def test_another_word_is_told_and_the_question_comes_again(question, wrong, hands, keyboard):
    asked = Asked(lambda: QUESTIONS[question](hands))
    place = keyboard.wait_for(ASKS)
    time.sleep(ABOVE_READING_S)
    keyboard.type(f"{wrong}\ngo\n")  # the second line came before the question was shown again
    place = keyboard.wait_for(f'"{wrong}" does not answer this; nothing moves.', after=place)
    keyboard.wait_for(ASKS, after=place)
    time.sleep(ABOVE_READING_S)
    assert asked.is_open
    keyboard.type(" GO \n")
    assert asked.wait() is None


def test_a_doubled_answer_answers_one_question(hands, keyboard):
    def both():
        hands.go_on("the first motion")
        hands.place(START)

    asked = Asked(both)
    keyboard.wait_for(ASKS)
    time.sleep(ABOVE_READING_S)
    keyboard.type("go\ngo\n")
    place = keyboard.wait_for(PLACE)
    keyboard.wait_for(ASKS, after=place)
    time.sleep(ABOVE_READING_S)
    assert asked.is_open
    keyboard.type("go\n")
    assert asked.wait() is None


def placed(hands, keyboard):
    place = len(keyboard.screen)
    asked = Asked(lambda: hands.place(START))
    keyboard.wait_for(ASKS, after=place)
    time.sleep(ABOVE_READING_S)
    keyboard.type("go\n")
    assert asked.wait() is None


def judged(hands, keyboard, line):
    """Types a line; returns the verdict once it was told what it means."""
    place = len(keyboard.screen)
    keyboard.type(f"{line}\n")
    deadline = time.monotonic() + 20
    while f'"{line}": ' not in keyboard.screen[place:] and time.monotonic() < deadline:
        verdict = hands.judge()
        time.sleep(0.01)
    return verdict


@pytest.mark.parametrize(("letter", "outcome"), [("s", Outcome.SUCCESS), ("f", Outcome.FAILURE)])
def test_only_what_was_typed_in_the_episode_judges_it(letter, outcome, hands, keyboard):
    keyboard.type(f"{letter}\n")
    placed(hands, keyboard)
    keyboard.type(f"{letter}\n")
    time.sleep(0.1)  # before the first step
    assert [hands.judge() for _ in range(3)] == [Outcome.RUNNING] * 3
    keyboard.wait_for(JUDGES)
    assert judged(hands, keyboard, "") is judged(hands, keyboard, "go") is Outcome.RUNNING
    assert "ignored" in keyboard.screen
    assert judged(hands, keyboard, letter) is outcome and hands.judge() is outcome
    keyboard.type(f"{letter}\n")
    placed(hands, keyboard)
    assert [hands.judge() for _ in range(3)] == [Outcome.RUNNING] * 3, "a new episode is not judged yet"


def test_a_question_within_an_episode_forgets_a_verdict_under_way(hands, keyboard):
    placed(hands, keyboard)
    hands.judge()
    keyboard.type("s\n")
    place = len(keyboard.screen)
    asked = Asked(lambda: hands.go_on("no fresh action for 160 ms"))
    keyboard.wait_for("no fresh action for 160 ms", after=place)
    time.sleep(ABOVE_READING_S)
    keyboard.type("go\ns\n")
    assert asked.wait() is None
    assert [hands.judge() for _ in range(3)] == [Outcome.RUNNING] * 3


def test_the_places_are_shown_in_the_base_frame(hands, keyboard):
    placed(hands, keyboard)
    assert "cube: x = -50.0 cm, y = 10.0 cm, turned 29 degrees" in keyboard.screen
    assert "tool" not in keyboard.screen


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_terminal_that_hangs_up_answers_nothing(question, hands, keyboard):
    asked = Asked(lambda: QUESTIONS[question](hands))
    keyboard.wait_for(ASKS)
    time.sleep(ABOVE_READING_S)
    keyboard.hang_up()
    assert "the terminal is closed" in str(asked.wait())
    with pytest.raises(InputError, match="the terminal is closed"):
        hands.judge()
    with pytest.raises(InputError, match="the terminal is closed"):
        QUESTIONS[question](hands)


def test_a_pipe_asks_alike_and_its_end_closes_it(keyboard):
    inside, outside = os.pipe()
    hands = ConsoleHands(Terminal(inside, keyboard.slave))
    os.write(outside, b"go\ngo\n")
    asked = Asked(lambda: hands.place(START))
    time.sleep(ABOVE_READING_S)
    assert asked.is_open
    os.write(outside, b"go\n")
    assert asked.wait() is None
    assert hands.judge() is Outcome.RUNNING
    os.write(outside, b"s\n")
    assert hands.judge() is Outcome.SUCCESS
    os.close(outside)
    with pytest.raises(InputError, match=r"the terminal is closed \(end of input\)"):
        hands.go_on("the first motion")
    os.close(inside)
