"""Reads parts of a ring's slots, many per round trip."""

from collections.abc import Sequence
from dataclasses import dataclass

from protos.codec import CHECKSUMS
from services.replay.connection import Client
from services.replay.settings import Keys

FETCH_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Bytes start to stop of a slot."""

    slot: int
    start: int
    stop: int
    expected: int
    """How many there will be, as far as is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rest:
    """Bytes from the middle of a blob on, and the checksums that stood at its beginning after they were read."""

    data: bytes
    checksums: int


class Slots:
    """Of one buffer. Belongs to one thread; raises redis errors."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client, self._prefix = client, keys.slots

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """In order, at most about `FETCH_BYTES` per round trip; what a slot does not have is missing."""
        found: list[bytes] = []
        pipeline, size = self._client.pipeline(transaction=False), 0
        for span in spans:
            pipeline.execute_command("GETRANGE", self._prefix + str(span.slot), span.start, span.stop - 1)
            size += span.expected
            if size > FETCH_BYTES:
                found += pipeline.execute()
                size = 0
        return found + pipeline.execute()

    def read_rests(self, spans: Sequence[Span | None]) -> list[Rest | None]:
        """Each span, and then whether the slot is still what it was when its beginning was read."""
        wanted = [each for span in spans if span is not None for each in (span, _checksums(span))]
        found = iter(self.read(wanted))
        return [
            None if span is None else Rest(data=next(found), checksums=int.from_bytes(next(found), "little"))
            for span in spans
        ]


def _checksums(span: Span) -> Span:
    size = CHECKSUMS.stop - CHECKSUMS.start
    return Span(slot=span.slot, start=CHECKSUMS.start, stop=CHECKSUMS.stop, expected=size)
