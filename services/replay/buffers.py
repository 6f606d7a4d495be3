"""Questions and orders about whole buffers, for those who neither write nor read transitions."""

from contextlib import closing

from protos.schema import BUFFERS, Buffer
from services.replay.connection import Keys, ReplaySettings, connect, reaching
from services.replay.scripts import clear


def totals(settings: ReplaySettings) -> dict[Buffer, int]:
    """Transitions ever committed to each buffer. Raises Unreachable."""
    with reaching(settings), closing(connect(settings)) as client:
        keys = {buffer: Keys(settings.prefix, buffer) for buffer in BUFFERS}
        return {
            buffer: int(client.execute_command("HGET", each.counters, "transitions") or 0)
            for buffer, each in keys.items()
        }


def delete_buffer(settings: ReplaySettings, buffer: Buffer) -> int:
    """Empties a buffer and lifts its allowance; returns how many segments it had. Raises Unreachable.

    Writers go on with their next segment; readers keep what they have read.
    """
    keys = Keys(settings.prefix, buffer)
    with reaching(settings), closing(connect(settings)) as client:
        return clear(client, keys)
