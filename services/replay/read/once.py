"""This module reads everything that is in a replay once, without following it.

The learner's fine-tuning, seeding, expansion and export read whole episodes with their images in this way.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing

from protos.episode import Episode
from protos.errors import CorruptData, InputError, Unreachable
from protos.schema import Buffer, Schema
from services.replay.connection import connect, reaching, schema_key
from services.replay.read.log import ImageDemand, StoredEpisode
from services.replay.read.shards import Following, Shards
from services.replay.settings import ReplaySettings, masked

log = logging.getLogger(__name__)

WAITING_BYTES = 1 << 30
"""Most bytes of unfinished episodes, per shard and buffer."""
SIZES = range(16, 1025, 16)
"""Image sizes that a schema may have."""


def read_episodes(
    settings: ReplaySettings,
    schema: Schema,
    buffers: Sequence[Buffer],
    *,
    where: Callable[[Episode], bool] | None = None,
    name: str = "read once",
) -> Generator[Episode, None, None]:
    """Yields the episodes that are in some buffers now, each shard's in order of arrival, with their images.

    `where` chooses among them before images are decoded, so it sees none; `name` is what others see of this reader.
    Episodes that are still under way are left out, damaged ones are left out and logged. Only one episode is decoded at
    a time; close the generator if you do not exhaust it. Raises SchemaMismatch, and Unreachable if a shard does not
    answer, at the latest in the end.
    """
    arrived = deque[StoredEpisode]()
    following = Following(
        replay=settings,
        schema=schema,
        demands=dict.fromkeys(buffers, ImageDemand(always=True)),
        waiting_bytes=WAITING_BYTES,
        deliver=arrived.append,
        name=name,
        stats=dict,
    )
    with closing(Shards(following)) as shards:
        while shards.poll():
            while arrived:
                stored = arrived.popleft()
                if where is None or where(stored.numbers):
                    yield from _decoded(stored, schema)
        if away := shards.away():
            raise Unreachable(f"replay shard {min(away)} does not answer: its episodes are missing")


def newest(episodes: Iterable[Episode], limit_bytes: int) -> list[Episode]:
    """Returns the last of some episodes, in order, whose images take at most `limit_bytes`; at least one."""
    kept, held = deque[Episode](), 0
    for episode in episodes:
        kept.append(episode)
        held += _image_bytes(episode)
        while held > limit_bytes and len(kept) > 1:
            held -= _image_bytes(kept.popleft())
    return list(kept)


def find_schema(settings: ReplaySettings) -> Schema:
    """Returns the schema of a replay, found by its hash, which the server keeps.

    Raises Unreachable, and InputError where nothing was written under this prefix.
    """
    with reaching(settings), closing(connect(settings)) as client:
        found = client.execute_command("GET", schema_key(settings))
    if not found:
        raise InputError(f"replay at {masked(settings.urls[0])}: nothing was written under prefix {settings.prefix!r}")
    candidates = (Schema(side_px=side, wrist_px=wrist) for side in SIZES for wrist in SIZES)
    schema = next((each for each in candidates if each.hash.encode() == found), None)
    if schema is None:
        raise InputError(f"replay at {masked(settings.urls[0])}: schema {found.decode()} is of another version")
    return schema


def _decoded(stored: StoredEpisode, schema: Schema) -> Iterator[Episode]:
    """Yields nothing for an episode whose images are damaged, which is logged."""
    try:
        yield stored.decoded(schema)
    except CorruptData as error:
        log.warning("left out an episode of buffer %s: %s", stored.buffer, error)


def _image_bytes(episode: Episode) -> int:
    return episode.observation.side.nbytes + episode.observation.wrist.nbytes
