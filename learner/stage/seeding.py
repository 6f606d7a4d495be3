"""Seeds a real stage with what the twin has learnt: successful twin episodes, copied to the demonstrations."""

import logging
from collections.abc import Callable, Iterator

import numpy as np

from learner.settings import RlSettings
from protos.schema import SEGMENT_STEPS, Outcome, Segment
from services.replay import Episode, ReplayReader, ReplaySettings, ReplayWriter

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
            for segment in segments(episode):
                writer.add(segment, ["demo"])
        writer.flush(_FLUSH_TIMEOUT_S)
    finally:
        writer.close()
    log.info("copied %d successful twin episodes to the demonstrations", len(chosen))
    return len(chosen)


def segments(episode: Episode) -> Iterator[Segment]:
    """An episode cut into segments again."""
    steps = len(episode.action)
    for first in range(0, steps, SEGMENT_STEPS):
        last = min(first + SEGMENT_STEPS, steps)
        taken, seen = slice(first, last), slice(first, last + 1)
        yield Segment(
            task=episode.task,
            scene=episode.scene,
            instruction=episode.instruction,
            configuration=episode.configuration,
            episode=f"{episode.name}/seed",
            first_step=first,
            outcome=episode.outcome if last == steps else Outcome.RUNNING,
            source=episode.source,
            policy_versions=episode.versions,
            backbone_id=episode.backbone_id,
            observation=episode.observation.rows(seen),
            action=np.ascontiguousarray(episode.action[taken]),
            reward=episode.reward[taken],
            human=episode.human[taken],
            embedding=None if episode.embedding is None else episode.embedding[seen],
        )
