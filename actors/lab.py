"""The lab protocol carries what a person in a lab does with hands and eyes to a simulated arm.

    request   u32 length of JSON, u32 0, JSON {"op": …, …}
    reply     u32 length of JSON, u32 length of bytes, JSON (an "error" key if refused), bytes

    op              what a person would do
    images          look through the two cameras (reply bytes: side image, then wrist image)
    place           put the objects where a configuration says
    objects         see where the objects are
    tool            see where the fingertips are, whatever TCP is set (tests)
    success         see if the task is solved at this moment
    protective_stop press against the arm until it stops (tests)
    pendant         turn and press what a teach pendant has (tests): "changes" of `actors.simulated_ur.pendant.Pendant`

It reaches cameras and objects only: the arm and its gripper are commanded through the controller's own ports. The
client is used by `actors.real`, the server is `actors.simulated_ur.ports.LabServer`.
"""

import json
import socket
import struct
import threading
from dataclasses import asdict
from typing import Any

import numpy as np

from protos.errors import ArmStopped, CorruptData, InputError, Unreachable
from protos.schema import U8, Configuration

LAB_PORT = 30100
OPS = ("images", "place", "objects", "tool", "success", "protective_stop", "pendant")
HEADER = struct.Struct(">II")
JSON_LIMIT_BYTES = 64 * 1024
BYTES_LIMIT = 16 * 1024 * 1024


def pack(message: dict[str, Any], blob: bytes = b"") -> bytes:
    """Returns one message as it travels."""
    text = json.dumps(message).encode()
    return HEADER.pack(len(text), len(blob)) + text + blob


def lengths(header: bytes) -> tuple[int, int]:
    """Returns the lengths that a header announces, checked before anything is read. Raises CorruptData."""
    text, blob = HEADER.unpack(header)
    if text > JSON_LIMIT_BYTES or blob > BYTES_LIMIT:
        raise CorruptData(f"lab message announces {text} + {blob} bytes (limits {JSON_LIMIT_BYTES}, {BYTES_LIMIT})")
    return text, blob


class LabClient:
    """Asks the lab of a simulated arm over one connection; safe to share between threads.

    Every method raises ArmStopped when the connection is lost, as eyes and hands do; the next one connects anew.
    InputError when the lab refuses.
    """

    def __init__(self, host: str, port: int = LAB_PORT, *, timeout_s: float = 5.0) -> None:
        """Connects. Raises Unreachable when nobody answers."""
        self._host, self._port, self._timeout_s = host, port, timeout_s
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        try:
            self._connected()
        except OSError as error:
            raise Unreachable(self._lost(error)) from error

    def images(self) -> tuple[U8, U8, float]:
        """Returns side image, wrist image (each (px, px, 3)) and the robot time [s] at which they were taken."""
        reply, blob = self._ask({"op": "images"})
        side, wrist = (tuple(reply[name]) for name in ("side", "wrist"))
        pixels = np.frombuffer(blob, np.uint8).copy()
        cut = int(np.prod(side))
        return pixels[:cut].reshape(side), pixels[cut:].reshape(wrist), float(reply["t"])

    def place(self, configuration: Configuration) -> None:
        """Puts the objects where the configuration says."""
        self._ask({"op": "place", "configuration": asdict(configuration)})

    def objects(self) -> dict[str, tuple[float, float, float, float]]:
        """Returns body name -> (x, y, z, yaw) in the base frame [m, rad]."""
        reply, _ = self._ask({"op": "objects"})
        return {name: tuple(pose) for name, pose in reply["objects"].items()}

    def tool(self) -> tuple[float, ...]:
        """Returns the pose of the fingertips (6,) in the base frame [m, rotation vector]."""
        return tuple(self._ask({"op": "tool"})[0]["tool"])

    def success(self) -> bool:
        """Returns True if the task is solved at this moment."""
        return bool(self._ask({"op": "success"})[0]["success"])

    def protective_stop(self) -> None:
        """Presses against the arm until its controller stops it."""
        self._ask({"op": "protective_stop"})

    def pendant(self, **changes: Any) -> dict[str, Any]:
        """Changes what the teach pendant shows, by name; returns all of it."""
        reply, _ = self._ask({"op": "pendant", "changes": changes})
        return dict(reply["pendant"])

    def popup(self) -> str:
        """Reads the message that the teach pendant shows; empty when there is none."""
        return str(self._ask({"op": "pendant"})[0]["popup"])

    def close(self) -> None:
        """Closes the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        with self._lock:
            try:
                wire = self._connected()
                wire.sendall(pack(request))
                text, blob = lengths(_read(wire, HEADER.size))
                reply, data = json.loads(_read(wire, text)), _read(wire, blob)
            except (OSError, EOFError) as error:
                self.close()
                raise ArmStopped(self._lost(error)) from error
        if "error" in reply:
            raise InputError(f"lab at {self._host}:{self._port}: {reply['error']}")
        return reply, data

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection((self._host, self._port), timeout=self._timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _lost(self, error: Exception) -> str:
        where = f"{self._host}:{self._port}"
        return f"lab of the stand-in at {where}: {error} (deadline {self._timeout_s:g} s): start the stand-in again"


def _read(wire: socket.socket, count: int) -> bytes:
    received = bytearray(count)
    view, done = memoryview(received), 0
    while done < count:
        done += (step := wire.recv_into(view[done:]))
        if not step:
            raise EOFError("it closed the connection")
    return bytes(received)
