"""Reads the JSON files of a run folder as they are, also while another process writes them or after it was killed.

A missing file is empty; the half-written last line of a JSON-lines file is left out.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TAIL_BYTES = 8192


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty when the file is missing or holds something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file, in order."""
    return _objects(path.read_text(errors="replace").splitlines()) if path.is_file() else []


def last_line(path: Path) -> dict[str, Any]:
    """The newest whole line of a JSON-lines file, read from its end; empty when there is none."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
        found = _objects(file.read().decode(errors="replace").splitlines())
    return found[-1] if found else {}


def _objects(texts: Iterable[str]) -> list[dict[str, Any]]:
    found = []
    for text in texts:
        try:
            content = json.loads(text)
        except ValueError:
            continue
        if isinstance(content, dict):
            found.append(content)
    return found
