"""This module writes files that are whole after a crash, sets damaged ones aside, and reads those that persons name.

    write_durably, JsonLines           an OSError names the file; what was there before stays readable
    read_text, read_json               a file that a person named: every mistake in it is an InputError
    read_object, read_lines, last_line our own files, while they are written: a missing one reads as empty
    short_folder                       a temporary folder for sockets, whose paths are limited

A JSON-lines file has one object per line. A last line without its end is still being written, or was torn by a crash:
readers leave it out, the next writer cuts it off and says so.
"""

import codecs
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from protos.errors import InputError
from protos.pointers import refuse_pointer
from protos.problems import doing, problem_of
from protos.process import Closing

log = logging.getLogger(__name__)

MAX_TEXT_BYTES = 16 << 20
"""Largest text file that is read when a person names it."""
MAX_SOCKET_PATH = 107
"""`sun_path` of unix(7), without its closing zero."""
RAY_SOCKET_BYTES = 66
"""Longest path that Ray adds to its folder for a socket: /session_<date>_<time>_<micros>_<pid>/sockets/plasma_store."""
_UNIQUE_BYTES = 8
"""Bytes that `mkdtemp` adds to a prefix."""
LAST_LINE_BYTES = 8_192
LOG_TAIL_LINES = 12
LOG_TAIL_BYTES = 16_384


def write_durably(path: Path, pieces: Iterable[bytes]) -> None:
    """Replaces a file at once by the joined pieces: after a crash the old content or the new is there, never a mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with doing(f"writing {path.name}", path):
            with temporary.open("wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError:
        with suppress(OSError):  # a full disk needs the room
            temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class JsonLines(Closing):
    """Appends objects to a JSON-lines file, each whole or not at all."""

    def __init__(self, path: Path, *, anew: bool = False) -> None:
        """Makes the folder. A torn last line is cut off with a warning; `anew` begins with an empty file."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb" if anew else "ab", buffering=0)
        self._cut_torn_line()

    def write(self, content: Mapping[str, Any]) -> None:
        """Appends one line, visible at once."""
        line = json.dumps(content).encode() + b"\n"
        with doing(f"adding a line to {self.path.name}", self.path):
            end = os.fstat(self._file.fileno()).st_size
            while line:
                try:
                    line = line[self._file.write(line) :]
                except OSError:
                    os.truncate(self._file.fileno(), end)
                    raise

    def close(self) -> None:
        self._file.close()

    def _cut_torn_line(self) -> None:
        if not self.path.is_file():  # a device
            return
        torn = _tail(self.path, MAX_TEXT_BYTES).rpartition(b"\n")[2]
        if torn:
            log.warning("%s ended in a torn line of %d bytes, cut off", self.path, len(torn))
            os.truncate(self._file.fileno(), self.path.stat().st_size - len(torn))


def short_folder(prefix: str, socket_bytes: int) -> Path:
    """Makes a temporary folder for sockets whose paths add `socket_bytes` to it, "/" included.

    It lies in TMPDIR, or in /tmp where TMPDIR is too long. Raises InputError where neither can be used.
    """
    return Path(tempfile.mkdtemp(prefix=prefix, dir=place_for_sockets(prefix, socket_bytes)))


def place_for_sockets(prefix: str, socket_bytes: int) -> str:
    """Returns the folder in which `short_folder` makes one."""
    most = MAX_SOCKET_PATH - socket_bytes - len(prefix) - _UNIQUE_BYTES - 1
    tried = [tempfile.gettempdir(), "/tmp"]
    for place in tried:
        if len(os.fsencode(place)) <= most and os.access(place, os.W_OK | os.X_OK):
            return place
    raise InputError(
        f"no folder for sockets: a path of one holds {MAX_SOCKET_PATH} bytes, so its folder {most} at most; tried "
        f"{' and '.join(tried)}: set TMPDIR to a short folder that can be written"
    )


def read_text(path: Path, *, what: str = "file", most: int = MAX_TEXT_BYTES) -> str:
    """Reads a text that a person named, in UTF-8 with or without a mark. Raises InputError with the path."""
    if not path.is_fifo():  # what is read of a pipe is gone from it
        refuse_pointer(path)
    try:
        with doing(f"reading the {what}", path), path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such {what}") from error
    except OSError as error:
        raise InputError(problem_of(error)) from error
    if len(data) > most:
        raise InputError(f"{path}: more than {most} bytes; a {what} is smaller")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{path}: written in UTF-16; save the {what} as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not text in UTF-8 (byte {error.start} is 0x{data[error.start]:02x}); save the {what} as UTF-8"
        ) from error


def read_json(path: Path, *, what: str = "file") -> Any:
    """Reads JSON that a person named. Raises InputError with the path."""
    text = read_text(path, what=what)
    if not text.strip():
        raise InputError(f"{path}: the {what} is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON (line {error.lineno}: {error.msg})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        raise InputError(f"{path}: not JSON that can be read ({error})") from error


def set_aside(path: Path, reason: str) -> None:
    """Renames a damaged file to `<name>.damaged` so that nothing reads it again, and says so."""
    aside = path.with_name(path.name + ".damaged")
    path.replace(aside)
    log.error("%s is damaged (%s); set aside as %s", path, reason, aside.name)


def read_object(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a file; returns an empty one when the file is missing or holds something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads the objects of a JSON-lines file, in order; a damaged line is left out with a warning."""
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        if (content := _object(line)) is None:
            log.warning("%s line %d is damaged and was skipped", path, number)
        else:
            found.append(content)
    return found


def last_line(path: Path) -> dict[str, Any]:
    """Reads the newest object of a JSON-lines file, from its end; returns an empty one when there is none."""
    lines = _tail(path, LAST_LINE_BYTES).splitlines(keepends=True)
    found = (_object(line) for line in reversed(lines) if line.endswith(b"\n"))
    return next((content for content in found if content is not None), {})


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> str:
    """Reads the last lines of a log, from its end; returns "(empty)" when there are none."""
    text = _tail(path, LOG_TAIL_BYTES).decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:]) or "(empty)"


def _tail(path: Path, size: int) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - size, 0))
        return file.read()


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
