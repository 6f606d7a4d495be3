"""This module seeds a real stage with what the twin has learnt: successful twin episodes become demonstrations."""

import logging
from collections.abc import Callable
from contextlib import closing
from itertools import takewhile

from learner.settings import RlSettings
from protos.schema import Outcome
from services.replay import ReplaySettings, ReplayWriter, newest, read_episodes

log = logging.getLogger(__name__)
_KEPT_BYTES = 256 << 20
_FLUSH_TIMEOUT_S = 30.0


def seed_demonstrations(replay: ReplaySettings, settings: RlSettings, stop: Callable[[], bool]) -> int:
    """Copies the newest `seed_twin_episodes` successes of the buffer "twin" to "demo"; returns how many.

    The copies carry the stage's name as their writer, so a second call for the same stage adds nothing.
    """
    successes = read_episodes(
        replay, settings.schema, ("twin",), where=lambda episode: episode.outcome is Outcome.SUCCESS, name="seed"
    )
    with closing(successes):
        kept = newest(takewhile(lambda _: not stop(), successes), _KEPT_BYTES)
    chosen = kept[-settings.seed_twin_episodes :]
    with ReplayWriter(replay, settings.schema, actor="seed", incarnation=settings.stage, spool=None) as writer:
        for episode in chosen:
            for segment in episode.segments(name=f"{episode.name}/seed"):
                writer.add(segment, ["demo"])
        writer.flush(_FLUSH_TIMEOUT_S)
    log.info("copied %d successful twin episodes to the demonstrations", len(chosen))
    return len(chosen)
