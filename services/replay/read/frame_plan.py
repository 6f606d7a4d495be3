"""What a batch needs of which segment: each picture once, neighbours together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from protos.schema import U8
from services.replay.read.frame_table import Camera, Places, Records
from services.replay.read.wire import Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """m pictures per camera."""

    places: Places  # (m,)
    out: Mapping[Camera, Sequence[U8]]  # m arrays (px, px, 3)


@dataclass(kw_only=True, slots=True)
class Run:
    """Neighbouring observations of a segment."""

    offset: int
    picks: list[int]  # indices of Wanted


@dataclass(kw_only=True, slots=True)
class Slot:
    """What is wanted of one segment, and what has come of it."""

    record: Records
    runs: list[Run] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    block_bytes: int = 0
    decode: Callable[[], None] | None = None
    checksums: bytearray = field(default_factory=lambda: bytearray(8))
    whole: bool = True

    @property
    def shard(self) -> int:
        return int(self.record["shard"])

    @property
    def number(self) -> int:
        return int(self.record["slot"])

    @property
    def picks(self) -> list[int]:
        return [pick for run in self.runs for pick in run.picks]

    def valid(self) -> bool:
        """All answers came, from the blob that was meant."""
        return self.whole and int.from_bytes(self.checksums, "little") == int(self.record["checksums"])


def plan(places: Places, picks: Sequence[int], *, join: bool) -> list[Slot]:
    """The segments to read for `picks`, which are different and in the order of their numbers.

    An observation that ends one segment and begins the next is read from the later one, or where `join` is true with
    its neighbours before it.
    """
    numbers, offsets = places.number.tolist(), places.offset.tolist()
    slots, names = places.segment["slot"].tolist(), places.segment[["shard", "slot", "checksums"]].tolist()
    found: dict[tuple[int, int, int], Slot] = {}  # a slot may have held several segments
    run, current, last, room = Run(offset=0, picks=[]), -1, -1, 0
    for pick in picks:
        if numbers[pick] != last + 1 or room == 0 or not (join or slots[pick] == current):
            slot = found.setdefault(names[pick], Slot(record=places.segment[pick]))
            run = Run(offset=offsets[pick], picks=[])
            room = int(slot.record["steps"]) + 1 - run.offset
            slot.runs.append(run)
        run.picks.append(pick)
        current, last, room = slots[pick], numbers[pick], room - 1
    return list(found.values())
