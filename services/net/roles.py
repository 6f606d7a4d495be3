"""This module says what each role of a lab may do: one table for gRPC methods and for Redis commands on keys.

    certificate (OU=twin) ──► admission: may a twin call this method?      ──► RIGHTS[Role.TWIN].calls
    users file of Redis   ◄── services.replay.server.users, written from   ──► RIGHTS[Role.TWIN].replay

A role is what a process is for. The learner alone publishes weights; who tells the guide what the twin achieved is
another role than the twins that fill the replay, and neither reaches another run: patterns of keys begin with a run's
prefix. Scripts of the replay are loaded by the administrator; the others run those that are loaded, under their own
rights, command by command.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from protos.errors import InputError
from protos.schema import BUFFERS


class Role(Enum):
    """A role is what a certificate, a token or a Redis user is for."""

    ADMIN = "admin"
    """Installs scripts and users, looks and mends; publishes nothing."""
    LEARNER = "learner"
    TWIN = "twin"
    """Twin actors and their policy servers; demonstrations in the twin."""
    ROBOT = "robot"
    GUIDE = "guide"
    """Tells the guide how the policy does in the twin: scanning twins, evaluations."""
    MONITOR = "monitor"
    CONSOLE = "console"
    """Shows an operator where the next object goes and how things stand."""


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A grant lets a role run commands on keys; `{p}` in them is the run's prefix."""

    commands: str
    keys: str


@dataclass(frozen=True, kw_only=True)
class Rights:
    """Rights are what a role may call and what it may do in the replay."""

    calls: frozenset[str]
    """gRPC methods, as in "Weights/Watch"."""
    replay: tuple[Grant, ...] = ()


_ACT = {"Weights/Watch", "Weights/Pull", "Weights/Report"}
_SEE = {"Weights/Status", "Guide/SuccessMap"}
_GUIDE = {"Guide/NextScan", "Guide/Report", "Guide/SetSuccess", "Guide/SuccessMap"}


def _keys(buffers: Sequence[str], *names: str) -> str:
    """Returns patterns of the keys of these names (`services.replay.Keys`) of every buffer."""
    return " ".join(f"{{{{p}}:{buffer}}}:{name}" for buffer in buffers for name in names)


def _writes(*buffers: str) -> tuple[Grant, ...]:
    """Returns what a writer needs: the commands of the commit script, each on the keys where the script uses it."""
    return (
        Grant(commands="evalsha", keys=f"{_keys(buffers, '*')} {{p}}:presence {{p}}:presence:writer:*"),
        Grant(commands="set", keys=f"{_keys(buffers, 'stage:*')} {{p}}:presence:writer:*"),
        Grant(commands="rename persist strlen", keys=_keys(buffers, "stage:*", "segment:*")),
        Grant(commands="unlink", keys=f"{_keys(buffers, 'stage:*', 'segment:*')} {{p}}:presence:writer:*"),
        Grant(commands="hget hset", keys=_keys(buffers, "seen", "counters")),
        Grant(commands="hincrby", keys=_keys(buffers, "counters")),
        Grant(commands="xadd", keys=_keys(buffers, "index")),
        Grant(commands="get", keys=_keys(buffers, "allowance")),
        Grant(commands="getrange setnx", keys="{p}:schema"),
        Grant(commands="sadd", keys="{p}:presence"),
    )


_LOOKS = (
    Grant(commands="hget hmget hgetall", keys=_keys(BUFFERS, "counters")),
    Grant(commands="getrange", keys="{p}:schema {p}:presence:* {p}:learner {p}:learner:number"),
    Grant(commands="pttl", keys="{p}:presence:* {p}:learner"),
    Grant(commands="smembers srem", keys="{p}:presence"),
)
_READS = (
    *_LOOKS,
    Grant(commands="get getrange", keys=f"{{p}}:schema {_keys(BUFFERS, 'segment:*', 'allowance')}"),
    Grant(commands="xrange xrevrange xread", keys=_keys(BUFFERS, "index")),
    Grant(commands="evalsha", keys="{p}:presence {p}:presence:reader:*"),
    Grant(commands="set", keys=f"{_keys(BUFFERS, 'allowance')} {{p}}:presence:reader:*"),
    Grant(commands="unlink", keys=f"{_keys(BUFFERS, 'index', 'allowance')} {{p}}:presence:reader:*"),
)
_LEADS = (
    Grant(commands="evalsha", keys=f"{{p}}:learner {{p}}:learner:number {_keys(BUFFERS, 'allowance')}"),
    Grant(commands="get set", keys="{p}:learner {p}:learner:number"),
    Grant(commands="unlink", keys="{p}:learner"),
)
"""Grants that the learner's lease needs: nobody else may take it, or say that it is another's."""

RIGHTS: Mapping[Role, Rights] = {
    Role.ADMIN: Rights(
        calls=frozenset(_ACT | _SEE | _GUIDE | {"Guide/Next"}), replay=(Grant(commands="@all", keys="*"),)
    ),
    Role.LEARNER: Rights(
        calls=frozenset({"Weights/Status", "Weights/Lead", "Weights/Publish"}),
        replay=(*_READS, *_LEADS, *_writes(*BUFFERS)),
    ),
    Role.TWIN: Rights(calls=frozenset(_ACT), replay=_writes("demo", "twin")),
    Role.ROBOT: Rights(
        calls=frozenset(_ACT | {"Guide/Next", "Guide/Report", "Guide/SuccessMap"}),
        replay=_writes("demo", "real", "human"),
    ),
    Role.GUIDE: Rights(calls=frozenset(_GUIDE)),
    Role.MONITOR: Rights(calls=frozenset(_SEE), replay=_LOOKS),
    Role.CONSOLE: Rights(calls=frozenset(_SEE), replay=_LOOKS),
}


def role_named(name: str) -> Role:
    """Returns the role of this name. Raises InputError, with the choices, for a name that is none."""
    try:
        return Role(name)
    except ValueError as error:
        raise InputError(f"role {name[:40]!r}: choose one of {', '.join(one.value for one in Role)}") from error
