"""This module says which names may be given: to runs, actors, prefixes, objects, and to all that they name in turn.

A name becomes part of a key in the replay (`check_key`); what names a folder too is held to less (`check_name`).
"""

import re

from protos.errors import InputError

MOST_BYTES = 80
"""Length of a name: folders take 255 bytes, and both they and keys are made longer than what names them."""
_KEY = re.compile(r"[\w./:-]{1,100}")
_NAME = re.compile(r"\w[\w.-]*")
_OTHERS = re.compile(r"[^\w.-]+")


def is_key(name: str) -> bool:
    """Returns whether a name can be a part of a key in the replay."""
    return _KEY.fullmatch(name) is not None


def check_key(what: str, name: str) -> None:
    """Raises InputError for a name that cannot be a part of a key in the replay."""
    if not is_key(name):
        raise InputError(f"{what} {name!r}: 1 to 100 letters, digits or any of _ - . / :")


def check_name(what: str, name: str) -> None:
    """Raises InputError, with a name that would do, for one that cannot name both a folder and keys in the replay."""
    if not _NAME.fullmatch(name) or len(name.encode()) > MOST_BYTES:
        near = _OTHERS.sub("-", name.encode()[: MOST_BYTES - 1].decode(errors="ignore")).strip("-.") or "demo"
        raise InputError(
            f"{what} {name!r}: 1 to {MOST_BYTES} bytes of letters, digits or any of _ - . and a letter, digit or _ "
            f"first, as in {near!r}"
        )
