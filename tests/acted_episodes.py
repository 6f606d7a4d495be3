"""Episodes as actors make them: the real loop, recorder and writer in a world of noise."""

import numpy as np

from actors import EpisodeLoop, EpisodeRecorder, EpisodeTags
from protos.schema import Configuration, Observation, Source, Step
from services.replay import ReplayWriter

TEXT = "Put the cube on the disc."
START = Configuration(region="A", cell=3, poses={"cube": (-0.55, 0.1, 0.018, 0.0), "target": (-0.4, 0.0, 0.001, 0.0)})
FLUSH_TIMEOUT_S = 60.0


class NoiseWorld:
    """Slots whose episodes end in success after `steps` steps; checks the actions."""

    def __init__(self, schema, *, n=2, steps=20, seed=0):
        self.n, self._schema, self._steps = n, schema, steps
        self._rng = np.random.default_rng(seed)
        self._step = np.zeros(n, int)

    def reset(self, slot, configuration):
        assert configuration == START
        self._step[slot] = 0

    def observe(self):
        side, wrist = (
            self._rng.integers(0, 256, (self.n, px, px, 3), np.uint8)
            for px in (self._schema.side_px, self._schema.wrist_px)
        )
        return Observation(side=side, wrist=wrist, proprio=self._rng.normal(size=(self.n, 25)).astype(np.float32))

    def step(self, action):
        assert action.shape == (self.n, 7) and (np.abs(action) <= 1.0).all()
        self._step += 1
        ends = self._step == self._steps
        return Step(
            executed=action,
            reward=ends.astype(np.float32),
            terminated=ends,
            truncated=np.zeros(self.n, bool),
            success=ends,
        )


class CountedGuide:
    """So many episodes, then no more."""

    def __init__(self, count):
        self.left, self.results = count, []

    def next(self):
        self.left -= 1
        return START if self.left >= 0 else None

    def report(self, result):
        self.results.append(result)


class _Sink:
    def __init__(self, writer, buffer):
        self._writer, self._buffer = writer, buffer

    def add(self, segment):
        self._writer.add(segment, [self._buffer])


def act(policy, sink, schema, *, episodes, actor="actor", seed=0, source=Source.TWIN):
    """Runs so many episodes; the guide's results."""
    tags = EpisodeTags(actor=actor, incarnation="i", task="t", scene="s", instruction=TEXT, source=source)
    guide = CountedGuide(episodes)
    EpisodeLoop(NoiseWorld(schema, seed=seed), policy, guide, EpisodeRecorder(tags), sink).run(lambda: False)
    return guide.results


def write_episodes(replay, schema, policy, buffer, *, episodes, seed=0):
    """Acts, and commits all of it to one buffer of a replay."""
    with ReplayWriter(replay, schema, actor=buffer, spool=None) as writer:
        results = act(policy, _Sink(writer, buffer), schema, episodes=episodes, actor=buffer, seed=seed)
        assert writer.flush(FLUSH_TIMEOUT_S) == 0
    return sum(result.steps for result in results)
