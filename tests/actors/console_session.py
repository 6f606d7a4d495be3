"""A session at the console for tests: the real process on a pty, and an observer at the controller beside it."""

import subprocess
import sys
import threading
import time

import numpy as np
from keyboard import Keyboard

from protos.settings import save_settings

SAMPLES_HZ = 50.0
STILL_M = 0.002
"""Distance below which the tool has not moved."""

STALLS = tuple(
    f"HELD: {why}"
    for why in (
        *("no fresh action", "no sign of the program", "the arm has stood still", "the control script ended"),
        "moveL refused: the controller did not say why",
    )
)
"""Holds that a stall of the machine may cause at any time."""
OWN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Makes standard input the controlling terminal, whose end is a signal to the process, and goes on as a command."""


class Observer:
    """Reads the tool's position at the controller, whatever the process under test does."""

    def __init__(self, host):
        import rtde_receive

        self._receive = rtde_receive.RTDEReceiveInterface(host, 125.0, ["timestamp", "actual_TCP_pose"])
        self._samples, self._lock, self._closing = [], threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self):
        while not self._closing.wait(1 / SAMPLES_HZ):
            with self._lock:
                self._samples.append((time.monotonic(), self._receive.getActualTCPPose()[:3]))

    def moved_m(self, since):
        """The largest distance of any position since then from the first one."""
        with self._lock:
            places = np.array([place for t, place in self._samples if t >= since])
        return float(np.linalg.norm(places - places[0], axis=1).max()) if len(places) else 0.0

    def close(self):
        self._closing.set()
        self._thread.join(5)
        self._receive.disconnect()


class Session:
    """`python -m actors.real` at a terminal. Follows what is shown: `wait_for` goes on behind what it found last."""

    def __init__(self, mode, settings, folder, *extra):
        path = save_settings(settings, folder / "real.json")
        self.keyboard = Keyboard()
        command = [sys.executable, "-m", "actors.real", mode, "--settings", str(path), *extra]
        command = [sys.executable, "-c", OWN_TERMINAL, *command]
        self._log = folder / "real.log"
        with self._log.open("w") as log:
            slave = self.keyboard.slave
            self.process = subprocess.Popen(
                command,
                stdin=slave,
                stdout=slave,
                stderr=log,
                cwd=folder,
                start_new_session=True,
            )
        self._place = 0

    def type(self, text):
        self.keyboard.type(text)

    def wait_for(self, text, seconds=60.0):
        """Waits for a text; a hold of a stalled machine is answered, as its operator would."""
        deadline = time.monotonic() + seconds
        while (found := self.keyboard.screen.find(text, self._place)) < 0:
            assert time.monotonic() < deadline, f"{text!r} was not shown:\n{self.keyboard.screen}\n{self.log}"
            assert self.process.poll() is None, f"ended with {self.process.returncode} before {text!r}:\n{self.log}"
            stalled = [found for why in STALLS if (found := self.keyboard.screen.find(why, self._place)) >= 0]
            if stalled and not any(text in why for why in STALLS):
                self._place = min(stalled) + 1
                self.answer("go")
            time.sleep(0.005)
        self._place = found + len(text)

    def answer(self, word):
        """Answers the question that is shown, as fast as a person could."""
        self.wait_for("type go and Enter: the arm moves.\n")
        time.sleep(0.5)
        self.type(f"{word}\n")

    @property
    def log(self):
        return self._log.read_text()

    def end(self, seconds=60.0):
        """Waits for the end; returns the exit status."""
        return self.process.wait(seconds)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.keyboard.close()
