"""This module writes files that are whole after a crash, sets damaged ones aside, and reads JSON while it is written.

A missing file reads as empty. A JSON-lines file has one object per line; a last line without its end is still being
written, or was torn by a crash, and is left out.
"""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

LAST_LINE_BYTES = 8_192
LOG_TAIL_LINES = 12
LOG_TAIL_BYTES = 16_384


def write_durably(path: Path, pieces: Iterable[bytes]) -> None:
    """Replaces a file at once by the joined pieces: after a crash the old content or the new is there, never a mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def set_aside(path: Path, reason: str) -> None:
    """Renames a damaged file to `<name>.damaged` so that nothing reads it again, and says so."""
    aside = path.with_name(path.name + ".damaged")
    path.replace(aside)
    log.error("%s is damaged (%s); set aside as %s", path, reason, aside.name)


def read_object(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a file; returns an empty one when the file is missing or holds something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
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
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
