"""This package is the actors' end of the replay: it spools every segment to disk, then commits it exactly once.

    ReplayWriter.add ──► spool.Spool (disk) ──► sender.Sender (a thread) ──► shard of the actor
    spools beside it that actors left ──► neighbours.Neighbours (the same thread) ──► their shards

`ReplayWriter` is the door.
"""

from services.replay.write.writer import ReplayWriter

__all__ = ["ReplayWriter"]
