"""This room is the learner's end of the replay: it reads what writers committed, by following it or once.

log        index stream ─► segments ─► episodes        shards    a thread per server follows its logs
sampling   how often each row is drawn                 index     rows of numbers, and batches filled from them
images     images in memory or still on a server       fetching  those on a server, read and decoded
wire       bytes of slots into arrays                  buffer    episodes ─► index and images of their buffer
position   a reader in a checkpoint, and back          reader    the door: follow, sample, restore
once       every episode that is there now             prefetch  batches drawn in threads of their own
"""

from services.replay.read.index import SOURCES, Batch
from services.replay.read.once import find_schema, newest, read_episodes
from services.replay.read.position import Position, Restored, RestoreSettings
from services.replay.read.prefetch import Prefetcher
from services.replay.read.reader import ReplayReader
from services.replay.read.sampling import Cells, Priority, Strategy, Uniform
from services.replay.read.settings import Field, ReaderSettings

__all__ = [
    "SOURCES",
    "Batch",
    "Cells",
    "Field",
    "Position",
    "Prefetcher",
    "Priority",
    "ReaderSettings",
    "ReplayReader",
    "RestoreSettings",
    "Restored",
    "Strategy",
    "Uniform",
    "find_schema",
    "newest",
    "read_episodes",
]
