"""This module writes files that are whole after a crash, and sets damaged ones aside."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)


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
