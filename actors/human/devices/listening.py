"""This module listens to a device's node in a thread, so that every packet is stamped when it comes and none is lost.

    node ─► thread: read, stamp, decode ─┬─► Reading      (a kernel's buffer that is full would keep old deflections
                                         └─► trouble       and drop the release)

Unplugged means that the node ends or cannot be read any more, and is for good: a device that is plugged in again is
opened anew. Silent means deflected without a word for longer than the device would be; it is over with the next packet,
but what was held then is forgotten, and the deadman has to be pressed anew.
"""

import os
import select
import threading
import time
from collections.abc import Callable

import numpy as np

from actors.human.devices.reading import Decoder, Reading
from protos.process import Closing

LARGEST_PACKET = 4096
LOOK_S = 0.2
"""The thread sees within this time that it has to end."""


class Listening(Closing):
    """Satisfies `Device` for a node that is open."""

    is_terminal = False

    def __init__(
        self,
        descriptor: int,
        decoder: Decoder,
        *,
        name: str,
        help: str,  # noqa: A002
        silent_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Owns the descriptor from now on."""
        self.name, self.help = name, help
        self._descriptor, self._decoder, self._silent_s, self._clock = descriptor, decoder, silent_s, clock
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._t, self._trouble = clock(), ""
        self.heard = 0
        """Number of bytes so far."""
        self._thread = threading.Thread(target=self._listen, name=f"{name} input", daemon=True)
        self._thread.start()

    def read(self) -> Reading:
        with self._lock:
            axes, trouble = self._decoder.axes, self._trouble
            silent_s = self._clock() - self._t
            if not trouble and axes.any() and silent_s > self._silent_s:
                trouble = f"{self.name}: deflected, and silent for {silent_s:.1f} s; is it in reach, is it charged?"
            if trouble:
                self._decoder.release()
                axes = np.zeros(6)
            pressed, self._decoder.pressed = tuple(self._decoder.pressed), []
            return Reading(t=self._t, axes=axes, deadman=self._decoder.deadman, pressed=pressed, trouble=trouble)

    @property
    def ignored(self) -> int:
        """Number of packets that said nothing of axes and buttons."""
        return self._decoder.ignored

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _listen(self) -> None:
        """Takes packets until the node ends or `close`; the body of the thread."""
        try:
            while not self._closing.is_set():
                if select.select([self._descriptor], [], [], LOOK_S)[0]:
                    self._take(os.read(self._descriptor, LARGEST_PACKET))
        except OSError as error:
            with self._lock:
                self._trouble = f"{self.name}: unplugged ({error.strerror or error}); plug it in"
        finally:
            os.close(self._descriptor)

    def _take(self, packet: bytes) -> None:
        if not packet:
            raise OSError("its node has ended")
        with self._lock:
            self._decoder.feed(packet)
            self._t = self._clock()
            self.heard += len(packet)
