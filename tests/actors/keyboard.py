"""A terminal for tests: the keys of a person at one end, what is shown at the other."""

import os
import pty
import select
import threading
import time


class Keyboard:
    """A pty. `slave` is the terminal of whoever asks; `typed` are the keys, `screen` is all that was shown."""

    def __init__(self):
        self._master, self.slave = pty.openpty()
        self._shown, self._lock = "", threading.Lock()
        self._is_closing = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def type(self, text):
        os.write(self._master, text.encode())

    @property
    def screen(self):
        with self._lock:
            return self._shown.replace("\r\n", "\n")

    def wait_for(self, text, *, after=0, seconds=60.0):
        """Waits until `text` is on the screen behind place `after`; returns the place behind it."""
        deadline = time.monotonic() + seconds
        while (found := self.screen.find(text, after)) < 0:
            assert time.monotonic() < deadline, f"{text!r} was not shown within {seconds:g} s:\n{self.screen[after:]}"
            time.sleep(0.005)
        return found + len(text)

    def hang_up(self):
        """Closes the person's end, as a dropped connection does."""
        self._is_closing.set()
        self._reader.join(5)
        os.close(self._master)

    def close(self):
        if not self._is_closing.is_set():
            self.hang_up()
        os.close(self.slave)

    def _read(self):
        while not self._is_closing.is_set():
            if not select.select([self._master], [], [], 0.05)[0]:
                continue
            try:
                shown = os.read(self._master, 4096)
            except OSError:  # nobody has the terminal open any more
                return
            with self._lock:
                self._shown += shown.decode(errors="replace")
