"""This module asks a person at a terminal one question at a time, and takes no answer that came before the question.

    forget what was typed ─► show the question ─► 0.3 s ─► forget again ─► one line: a valid word, or the question again

An Enter that bounces, a word typed twice and an answer to the question before are thus forgotten. The terminal is read
and written by its descriptors: a buffer of Python's would keep lines that the terminal has already dropped.
"""

import os
import select
import termios
import time
from typing import NoReturn

from actors.human.devices import in_lines
from protos.errors import InputError

READING_S = 0.3
"""A question cannot be read and answered faster than this; what comes earlier was meant for something else."""


class Terminal:
    """A terminal, or a pipe in its place. Every method raises InputError once it is closed."""

    def __init__(self, answers: int = 0, screen: int = 1) -> None:
        """Takes the descriptors to read and to write; standard input and output by default."""
        self._input, self._screen = answers, screen
        self._typed = b""

    def say(self, text: str) -> None:
        """Shows a line."""
        try:
            os.write(self._screen, f"{text}\n".encode())
        except OSError as error:
            self._closed(error)

    def ask(self, question: str, *words: str) -> str:
        """Shows the question until one of the `words` answers it; returns that word. Waits without an end."""
        with in_lines(self._input):
            while True:
                self.forget()
                self.say(question)
                time.sleep(READING_S)
                if self.forget():
                    self.say("Too early: what was typed before the question could be read does not count.")
                answer = self._line(None)
                if answer in words:
                    return answer
                self.say(f'"{answer}" does not answer this; nothing moves.')

    def line(self) -> str | None:
        """Returns the next line that was typed since the last question or `forget`; None while there is none."""
        return self._line(0.0)

    def forget(self) -> bool:
        """Drops everything that was typed so far; returns True if a line was among it."""
        was_typed, self._typed = bool(self._typed), b""
        while self._is_readable(0.0):
            was_typed = True
            if os.isatty(self._input):
                break
            self._read()
        try:
            if os.isatty(self._input):
                termios.tcflush(self._input, termios.TCIFLUSH)  # the beginning of a line too
        except termios.error as error:
            self._closed(error)
        return was_typed

    def _line(self, timeout_s: float | None) -> str | None:
        while b"\n" not in self._typed:
            if not self._is_readable(timeout_s):
                return None
            self._read()
        line, _, self._typed = self._typed.partition(b"\n")
        return line.decode(errors="replace").strip().lower()

    def _is_readable(self, timeout_s: float | None) -> bool:
        return bool(select.select([self._input], [], [], timeout_s)[0])

    def _read(self) -> None:
        try:
            typed = os.read(self._input, 4096)
        except OSError as error:
            self._closed(error)
        if not typed:
            self._closed("end of input")
        self._typed += typed

    def _closed(self, why: object) -> NoReturn:
        raise InputError(f"the terminal is closed ({why}): nobody can answer; start again at a terminal")
