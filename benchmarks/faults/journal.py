"""This module compares two independent records by id: what actors handed over and what the servers hold.

Each incarnation of an actor appends to a journal of its own, one unbuffered line before and after each `add`, so that
what was written survives a `kill -9` of the actor. The servers' side is read entry by entry and slot by slot.

    begin 7       about to hand over segment 7
    accepted 7    `add` returned and dropped nothing: segment 7 must arrive exactly once
    sent 5 8 1    5 segments acknowledged in order; 8 commits made, 1 refused as a repetition
"""

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from protos.codec import read_header
from protos.errors import CorruptData, InputError
from protos.schema import Buffer
from services.replay import Keys, ReplaySettings, connect, reaching
from services.replay.connection import Client

PAGE = 500
BUFFER: Buffer = "twin"

Id = tuple[str, str, int]
"""Actor, incarnation, seq."""


class Journal:
    """One incarnation's record, in file `folder`/actor=incarnation."""

    def __init__(self, folder: Path, actor: str, incarnation: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / f"{actor}={incarnation}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def begin(self, seq: int) -> None:
        self._line("begin", seq)

    def accepted(self, seq: int) -> None:
        self._line("accepted", seq)

    def sent(self, acknowledged: int, commits: int, repeated: int) -> None:
        self._line("sent", acknowledged, commits, repeated)

    def _line(self, word: str, *numbers: int) -> None:
        os.write(self._file, " ".join((word, *map(str, numbers))).encode() + b"\n")


@dataclass(kw_only=True)
class Claims:
    """Reads all journals of a folder."""

    begun: set[Id] = field(default_factory=set)
    accepted: set[Id] = field(default_factory=set)
    acknowledged: int = 0
    commits: int = 0
    """Including those that the server refused as repetitions."""

    @classmethod
    def read(cls, folder: Path) -> "Claims":
        claims = cls()
        for path in folder.iterdir():
            claims._add(path)
        return claims

    def _add(self, path: Path) -> None:
        actor, incarnation = path.name.split("=")
        acknowledged = commits = repeated = 0
        for line in path.read_bytes().split(b"\n")[:-1]:  # what follows the last line's end is torn
            word, *numbers = line.split()
            if word == b"sent":
                acknowledged, commits, repeated = map(int, numbers)
            else:
                into = self.begun if word == b"begin" else self.accepted
                into.add((actor, incarnation, int(numbers[0])))
        self.acknowledged += acknowledged
        self.commits += commits + repeated


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Compares how often ids arrived with how often they should have."""

    lost: int
    doubled: int

    @classmethod
    def of(cls, arrived: Counter[Id], claims: Claims) -> "Verdict":
        """Raises CorruptData for an id that no actor ever handed over."""
        unknown = arrived.keys() - claims.begun
        if unknown:
            raise CorruptData(f"{len(unknown)} segments that no actor handed over, one of them {min(unknown)}")
        return cls(
            lost=sum(not arrived[name] for name in claims.accepted),
            doubled=sum(times - 1 for times in arrived.values()),
        )


def committed(settings: ReplaySettings) -> Counter[Id]:
    """Counts how often each id is in the rings of all shards. Raises CorruptData for a slot that holds another
    segment.
    """
    return sum((_on_shard(settings, shard) for shard in range(len(settings.urls))), Counter[Id]())


def _on_shard(settings: ReplaySettings, shard: int) -> Counter[Id]:
    keys = Keys(settings.prefix, BUFFER)
    found: Counter[Id] = Counter()
    with reaching(settings, shard), closing(connect(settings, shard)) as client:
        if int(client.execute_command("HGET", keys.counters, "tail") or 1) > 1:
            raise InputError(f"the ring of {settings.capacity_bytes} bytes has dropped segments: give it more")
        start = b"-"
        while entries := client.execute_command("XRANGE", keys.index, start, "+", "COUNT", PAGE):
            found.update(_ids(client, keys, [fields for _, fields in entries]))
            start = b"(" + entries[-1][0]
    return found


def _ids(client: Client, keys: Keys, entries: Iterable[dict[bytes, bytes] | list[bytes]]) -> list[Id]:
    """The ids of index entries, each compared with the segment in its slot."""
    ids = []
    for entry in entries:
        fields = entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
        header = read_header(client.execute_command("GET", keys.slots + fields[b"ring"].decode()) or b"")
        name = (fields[b"actor"].decode(), fields[b"incarnation"].decode(), int(fields[b"seq"]))
        if name != (header.actor, header.incarnation, header.seq):
            raise CorruptData(f"slot {fields[b'ring'].decode()} does not hold {name}")
        ids.append(name)
    return ids
