"""Seeds a real stage with what the twin has learnt: successful twin episodes, copied to the demonstrations."""

import logging
from collections.abc import Callable

from learner.settings import RlSettings
from protos.schema import Outcome
from services.replay import ReplayReader, ReplaySettings, ReplayWriter

log = logging.getLogger(__name__)
_KEPT_BYTES = 256 << 20
_FLUSH_TIMEOUT_S = 30.0


def seed_demonstrations(replay: ReplaySettings, settings: RlSettings, stop: Callable[[], bool]) -> int:
    """Copies the newest `seed_twin_episodes` successes of the buffer "twin" to "demo"; returns how many.

    The copies carry the stage's name as their writer, so a second call for the same stage adds nothing.
    """
    reader = ReplayReader(
        replay,
        settings.schema,
        buffers=["twin"],
        gamma=1.0,
        n_step=1,
        capacity={},
        keep_frames=["twin"],
        episode_bytes=_KEPT_BYTES,
    )
    try:
        while reader.poll() and not stop():
            pass
        successes = reader.episodes("twin", lambda episode: episode.outcome is Outcome.SUCCESS)
    finally:
        reader.close()
    chosen = successes[-settings.seed_twin_episodes :]
    writer = ReplayWriter(replay, settings.schema, actor="seed", incarnation=settings.stage, spool=None)
    try:
        for episode in chosen:
            for segment in episode.segments(name=f"{episode.name}/seed"):
                writer.add(segment, ["demo"])
        writer.flush(_FLUSH_TIMEOUT_S)
    finally:
        writer.close()
    log.info("copied %d successful twin episodes to the demonstrations", len(chosen))
    return len(chosen)
