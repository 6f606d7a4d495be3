"""Questions and orders about whole buffers, for those who neither write nor read transitions."""

from contextlib import closing

from protos.schema import BUFFERS, Buffer
from services.replay.connection import Keys, ReplaySettings, connect, reaching
from services.replay.scripts import clear


def totals(settings: ReplaySettings) -> dict[Buffer, int]:
    """Transitions ever committed to each buffer, over all shards. Raises Unreachable if one does not answer."""
    found = dict.fromkeys(BUFFERS, 0)
    for shard in range(settings.shards):
        with reaching(settings, shard), closing(connect(settings, shard)) as client:
            for buffer in BUFFERS:
                counters = Keys(settings.prefix, buffer).counters
                found[buffer] += int(client.execute_command("HGET", counters, "transitions") or 0)
    return found


def delete_buffer(settings: ReplaySettings, buffer: Buffer) -> int:
    """Empties a buffer on all shards and lifts its allowance; returns how many segments it had. Raises Unreachable.

    Writers go on with their next segment; readers keep what they have read.
    """
    keys, segments = Keys(settings.prefix, buffer), 0
    for shard in range(settings.shards):
        with reaching(settings, shard), closing(connect(settings, shard)) as client:
            segments += clear(client, keys)
    return segments
