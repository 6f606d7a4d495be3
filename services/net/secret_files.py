"""This module reads files that hold a secret: tokens, passwords, private keys.

A secret that others of the machine can read is none, and one that was forgotten (an empty file, a placeholder that
nobody filled in) lets everybody in; both are refused.
"""

import stat
from pathlib import Path

from protos.errors import InputError

PLACEHOLDERS = ("${", "CHANGE_ME")
"""Marks of a template that nobody filled in."""


def read_secret_bytes(what: str, path: Path) -> bytes:
    """Returns the content of a file of mode 0600 or less. Raises InputError for one that others may read or write."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise InputError(f"{what} file {path}: its mode is {mode:04o}, so others can read it; chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} file {path}: cannot be read ({error})") from error


def read_secret(what: str, path: Path) -> str:
    """Returns the one line of a file with a password or a token. Raises InputError for one that keeps nobody out."""
    try:
        text = read_secret_bytes(what, path).decode().strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{what} file {path}: cannot be read ({error})") from error
    if (problem := weakness(text)) is not None:
        raise InputError(f"{what} file {path}: {problem}")
    return text


def weakness(secret: str) -> str | None:
    """Returns why a password or token keeps nobody out; None for one that may do."""
    if not secret:
        return "it is empty"
    if found := next((mark for mark in PLACEHOLDERS if mark in secret), None):
        return f"it still holds {found}, a placeholder that nobody filled in"
    return None if secret.isascii() and secret.isprintable() else "it is not one line of printable ASCII characters"
