"""TOML files that people may write or edit; what is wrong with one is said in one line."""

import tomllib
from pathlib import Path
from typing import Any

from protos.errors import SceneError, SchemaMismatch


def read_toml(path: Path, *, unreadable: str) -> dict[str, Any]:
    """A file's content. Raises `SceneError`: `unreadable` where there is no such file, else why it is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SceneError(unreadable) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: not valid TOML: {error}") from error


def read_versioned(path: Path, *, version: int, made_by: str) -> dict[str, Any]:
    """Content of a file with a `format` entry. Raises `SchemaMismatch` for another version than ours."""
    table = read_toml(path, unreadable=f"{path.parent}: no readable {path.name}; {made_by}")
    if table.get("format") != version:
        raise SchemaMismatch(f"{path}: {path.stem} format {table.get('format')}, this version reads format {version}")
    return table
