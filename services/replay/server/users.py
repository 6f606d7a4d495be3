"""This module writes the users of the replay's servers, in the form of a Redis ACL file, from the table of roles.

    RIGHTS[role].replay ─► rules_of(role, prefix) ─► "user twinrl.twin on #… (+xadd ~{twinrl:twin}:index) …"

A user is named by run and role, and reaches the keys of its run alone. Each right is a selector of its own, `(commands
keys)`, which Redis knows from 7.0 on: a twin may run `set` on a stage and `hincrby` on the counters, and neither on the
other. Passwords stand in the file as sha256.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from protos.errors import InputError
from protos.folders import check_key
from services.net import RIGHTS, Role, read_secret_bytes, weakness
from services.replay.settings import user_of

EVERYBODY = "+auth +hello +ping +select +quit +reset +info +time"
"""Commands without keys, for all users."""
_HASH = re.compile(r"#[0-9a-f]{64}")


def users_text(prefix: str, passwords: Mapping[Role, Sequence[str]]) -> str:
    """Returns a file of users for the run with this prefix; `passwords` are sha256 by role, as many as there are.

    A role without a password has no user. Raises InputError for a prefix whose patterns would match another run's keys.
    """
    check_key("prefix", prefix)
    if ":" in prefix:
        raise InputError(f"prefix {prefix!r}: without a colon, or its users would reach the keys of other runs")
    head = (
        f"# The users of the run {prefix}, one per role: written by `twinrl certificates`, which keeps it up to date.\n"
    )
    lines = [
        f"user {user_of(prefix, role)} on {' '.join(f'#{one}' for one in passwords[role])} {rules_of(role, prefix)}\n"
        for role in Role
        if passwords.get(role)
    ]
    return head + "".join(lines)


def rules_of(role: Role, prefix: str) -> str:
    """Returns the rules of a role, without its passwords."""
    selectors = [
        f"({' '.join(f'+{each}' for each in grant.commands.split())} "
        f"{' '.join(f'~{each}' for each in grant.keys.replace('{p}', prefix).split())})"
        for grant in RIGHTS[role].replay
    ]
    return " ".join([EVERYBODY, *selectors])


def read_users(files: Sequence[Path]) -> dict[str, str]:
    """Returns the lines of ACL files by user, without the administrator's.

    Raises InputError for a file that others may read, a line that is no user's, the default user, a user named twice,
    and a user whose password keeps nobody out.
    """
    found: dict[str, str] = {}
    for file in files:
        for line in _lines(file):
            words = line.split()
            if words[0] != "user" or len(words) < 2 or words[1] == "default":
                raise InputError(f"ACL file {file}: every line is `user <name> …` with a name other than default")
            if words[1] in found:
                raise InputError(f"ACL file {file}: user {words[1]} has a line already")
            _check_passwords(file, words)
            if words[1] != user_of("", Role.ADMIN):
                found[words[1]] = line
    return found


def _lines(file: Path) -> list[str]:
    try:
        text = read_secret_bytes("ACL", file).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"ACL file {file}: cannot be read ({error})") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _check_passwords(file: Path, words: Sequence[str]) -> None:
    given = [word for word in words if word[0] in ">#"]
    if "nopass" in words or not given:
        raise InputError(f"ACL file {file}: user {words[1]} has no password")
    for word in given:
        bad = weakness(word[1:]) if word[0] == ">" else None if _HASH.fullmatch(word) else "it is no sha256"
        if bad:
            raise InputError(f"ACL file {file}: password of user {words[1]}: {bad}")
