"""This module makes segments and episodes with recognisable contents, for the replay's tests."""

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from protos.episode import Segment
from protos.schema import SEGMENT_STEPS, Buffer, Configuration, Observation, Outcome, Schema, Source
from services.replay import Episode, ReaderSettings, ReplayReader, ReplaySettings, ReplayWriter, read_episodes

SCHEMA = Schema(side_px=16, wrist_px=16)
START = Configuration(region="B", cell=23, poses={"cube": (-0.55, -0.1, 0.02, 0.3), "tool": (-0.54, 0.0, 0.16, 0.0)})


def make_segment(
    rng: np.random.Generator,
    *,
    steps: int = 4,
    schema: Schema = SCHEMA,
    episode: str = "actor/life/0",
    first_step: int = 0,
    outcome: Outcome = Outcome.SUCCESS,
    embedding_dim: int = 3,
    backbone_id: str = "backbone",
    versions: tuple[int, int] = (4, 5),
    human: float = 0.25,
) -> Segment:
    def images(px: int) -> np.ndarray:
        return rng.integers(0, 256, (steps + 1, px, px, 3), np.uint8)

    embedding = rng.normal(size=(steps + 1, embedding_dim)).astype(np.float32) if embedding_dim else None
    return Segment(
        task="pick_and_place",
        scene="bench",
        instruction="Put the cube on the disc.",
        configuration=START,
        episode=episode,
        first_step=first_step,
        outcome=outcome,
        source=Source.TWIN,
        policy_versions=versions,
        backbone_id=backbone_id if embedding_dim else "",
        observation=Observation(
            side=images(schema.side_px),
            wrist=images(schema.wrist_px),
            proprio=rng.normal(size=(steps + 1, 25)).astype(np.float32),
        ),
        action=rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        reward=rng.normal(size=steps).astype(np.float32),
        human=rng.random(steps) < human,
        embedding=embedding,
    )


def cut(whole: Segment, sizes: Iterator[int] | None = None) -> list[Segment]:
    """Cuts an episode of any length into segments that share their boundary observations, as a recorder does."""
    segments, first = [], 0
    while first < whole.steps:
        count = min(next(sizes) if sizes else SEGMENT_STEPS, whole.steps - first)
        rows, steps = slice(first, first + count + 1), slice(first, first + count)
        ends = first + count == whole.steps
        segments.append(
            Segment(
                task=whole.task,
                scene=whole.scene,
                instruction=whole.instruction,
                configuration=whole.configuration,
                episode=whole.episode,
                first_step=first,
                outcome=whole.outcome if ends else Outcome.RUNNING,
                source=whole.source,
                policy_versions=whole.policy_versions,
                backbone_id=whole.backbone_id,
                observation=whole.observation.rows(rows),
                action=whole.action[steps],
                reward=whole.reward[steps],
                human=whole.human[steps],
                embedding=None if whole.embedding is None else whole.embedding[rows],
            )
        )
        first += count
    return segments


def assert_same(left: Segment, right: Segment) -> None:
    """Asserts that every field is equal, bit by bit."""
    for name in Segment.__dataclass_fields__:
        a, b = getattr(left, name), getattr(right, name)
        if name == "observation":
            for field in ("side", "wrist", "proprio"):
                np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
        elif isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, name


def send(settings: ReplaySettings, segments: list[Segment], *buffers: Buffer, **options) -> None:
    """Sends the segments through a writer of their own, to "twin" by default."""
    with ReplayWriter(settings, SCHEMA, **({"actor": "twin/0", "spool": None} | options)) as writer:
        for segment in segments:
            writer.add(segment, buffers or ("twin",))
        assert writer.flush(20) == 0


def reader_of(settings: ReplaySettings, **options) -> ReplayReader:
    """Makes a reader, of the twin buffer by default."""
    own = {name: options.pop(name) for name in ("embed", "name", "resume", "lease") if name in options}
    defaults = {"gamma": 0.9, "n_step": 3, "capacity": {"twin": 10_000}}
    return ReplayReader(settings, SCHEMA, ReaderSettings(**(defaults | options)), **own)


class Names:
    """Notes the name of every episode that a reader takes in, by computing its readouts."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def reader(self, settings: ReplaySettings, **options) -> ReplayReader:
        return reader_of(settings, embed=self._note, backbone_id="of nobody", **options)

    def _note(self, episode: Episode) -> np.ndarray:
        self.names.append(episode.name)
        return np.zeros((len(episode.observation), 1), np.float32)


def read_all(reader: ReplayReader) -> ReplayReader:
    while reader.poll():
        pass
    return reader


def names_in(settings: ReplaySettings) -> list[str]:
    """Returns the names of the twin buffer's episodes."""
    return [episode.name for episode in read_episodes(settings, SCHEMA, ("twin",))]


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail("did not happen in time")
