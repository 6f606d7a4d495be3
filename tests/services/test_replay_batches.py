"""Tests what a batch holds, against the definition of each number written out step by step."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from replay_samples import SCHEMA, cut, make_segment, reader_of

from protos.episode import Segment
from protos.schema import Outcome
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter
from services.replay.read.index import monte_carlo, n_step

ENDS = [Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMEOUT]


def reference(reward: list[float], *, terminated: bool, gamma: float, n: int) -> list[tuple[float, float, int]]:
    """(n-step sum, discount, steps ahead) by walking forward from every step."""
    rows = []
    for t in range(len(reward)):
        total, factor, k = 0.0, 1.0, 0
        while k < n and t + k < len(reward):
            total += factor * reward[t + k]
            factor *= gamma
            k += 1
        over = terminated and t + k == len(reward)
        rows.append((total, 0.0 if over else factor, k))
    return rows


@given(
    reward=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60),
    terminated=st.booleans(),
    gamma=st.floats(0, 1),
    n=st.integers(1, 70),
)
@hypothesis_settings(deadline=None)
def test_n_step_returns_equal_the_walked_ones(reward, terminated, gamma, n):
    got = n_step(np.array(reward, np.float32), terminated=terminated, gamma=gamma, n=n)
    total, discount, ahead = zip(*reference(reward, terminated=terminated, gamma=gamma, n=n), strict=True)
    np.testing.assert_allclose(got.reward, total, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(got.discount, discount, rtol=1e-5, atol=1e-30)
    np.testing.assert_array_equal(got.ahead, ahead)


@given(reward=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60), gamma=st.floats(0, 1))
@hypothesis_settings(deadline=None)
def test_monte_carlo_returns_equal_the_summed_ones(reward, gamma):
    expected = [sum(gamma**j * r for j, r in enumerate(reward[t:])) for t in range(len(reward))]
    np.testing.assert_allclose(monte_carlo(np.array(reward, np.float32), gamma), expected, rtol=1e-4, atol=1e-2)


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as server:
        yield server.url


class Rows:
    """Every transition of the written episodes, by its observation's first readout number."""

    def __init__(self, episodes: list[Segment], *, gamma: float, n: int) -> None:
        self.by_key = {}
        for episode in episodes:
            terminated = episode.outcome in (Outcome.SUCCESS, Outcome.FAILURE)
            walked = reference(episode.reward.tolist(), terminated=terminated, gamma=gamma, n=n)
            for t, (reward, discount, k) in enumerate(walked):
                to_end = sum(gamma**j * r for j, r in enumerate(episode.reward[t:].tolist()))
                is_alone = episode.outcome is Outcome.SUCCESS and not any(episode.human[t:])
                imitate = float(episode.human[t] or is_alone)
                self.by_key[episode.embedding[t, 0].item()] = (episode, t, reward, discount, k, to_end, imitate)

    def check(self, batch, i: int) -> None:
        episode, t, reward, discount, k, to_end, imitate = self.by_key[batch.embedding[i, 0].item()]
        np.testing.assert_array_equal(batch.embedding[i], episode.embedding[t])
        np.testing.assert_array_equal(batch.proprio[i], episode.observation.proprio[t])
        np.testing.assert_array_equal(batch.action[i], episode.action[t])
        np.testing.assert_array_equal(batch.next_embedding[i], episode.embedding[t + k])
        np.testing.assert_array_equal(batch.next_proprio[i], episode.observation.proprio[t + k])
        np.testing.assert_allclose(
            [batch.reward[i], batch.discount[i], batch.mc_return[i]], [reward, discount, to_end], rtol=1e-4, atol=1e-4
        )
        assert batch.imitate[i] == imitate
        assert batch.human[i] == episode.human[t]
        assert batch.version[i] == episode.policy_versions[0]


prefixes = iter(range(10_000))


@given(
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.tuples(st.integers(1, 40), st.sampled_from(ENDS)), min_size=1, max_size=6),
    pieces=st.integers(1, 16),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    n=st.integers(1, 5),
)
@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sampled_rows_equal_written_rows(url, seed, lengths, pieces, gamma, n):
    rng = np.random.default_rng(seed)
    episodes = [
        make_segment(rng, steps=steps, outcome=outcome, episode=f"e{i}", versions=(i, i + 1))
        for i, (steps, outcome) in enumerate(lengths)
    ]
    settings = ReplaySettings(urls=(url,), prefix=f"batches{next(prefixes)}")
    with ReplayWriter(settings, SCHEMA, actor="a", spool=None) as writer:
        for episode in episodes:
            for segment in cut(episode, iter(lambda: pieces, None)):
                writer.add(segment, ("twin",))
        assert writer.flush(10) == 0
    reader = reader_of(settings, gamma=gamma, n_step=n)
    while reader.poll():
        pass
    assert reader.counts() == {"twin": sum(steps for steps, _ in lengths)}
    rows = Rows(episodes, gamma=gamma, n=n)
    batch = reader.sample(rng, {"twin": 300})
    for i in range(len(batch)):
        rows.check(batch, i)


def test_a_full_mirror_holds_the_newest_rows_with_their_targets(url):
    rng = np.random.default_rng(0)
    episodes = [make_segment(rng, steps=7, episode=f"e{i}", outcome=Outcome.TIMEOUT) for i in range(30)]
    settings = ReplaySettings(urls=(url,), prefix="full")
    with ReplayWriter(settings, SCHEMA, actor="a", spool=None) as writer:
        for episode in episodes:
            writer.add(episode, ("twin",))
        assert writer.flush(10) == 0
    reader = reader_of(settings, capacity={"twin": 50})
    while reader.poll():
        pass
    rows = Rows(episodes, gamma=0.9, n=3)
    batch = reader.sample(rng, {"twin": 2000})
    seen = set(batch.embedding[:, 0].tolist())
    for i in range(200):
        rows.check(batch, i)
    assert len(seen) == reader.counts()["twin"] == 50 - 7  # seven of the rows are last observations
    oldest = {rows.by_key[key][0].episode for key in seen}
    assert oldest == {f"e{i}" for i in range(23, 30)}


def test_sizes_and_order_of_the_buffers(url):
    rng = np.random.default_rng(0)
    settings = ReplaySettings(urls=(url,), prefix="sizes")
    written = {}
    with ReplayWriter(settings, SCHEMA, actor="a", spool=None) as writer:
        for buffer in ("demo", "twin"):
            written[buffer] = make_segment(rng, steps=16, episode=buffer)
            writer.add(written[buffer], (buffer,))
        assert writer.flush(10) == 0
    reader = reader_of(settings, n_step=1, capacity={"demo": 100, "twin": 100})
    while reader.poll():
        pass
    batch = reader.sample(rng, {"twin": 5, "demo": 3})
    assert len(batch) == 8
    assert np.isin(batch.embedding[:5], written["twin"].embedding).all()
    assert np.isin(batch.embedding[5:], written["demo"].embedding).all()
    again = [reader.sample(np.random.default_rng(1), {"twin": 20}).action for _ in range(2)]
    np.testing.assert_array_equal(*again)


def test_every_transition_is_drawn_equally_often(url):
    rng = np.random.default_rng(0)
    settings = ReplaySettings(urls=(url,), prefix="uniform")
    with ReplayWriter(settings, SCHEMA, actor="a", spool=None) as writer:
        for i in range(4):
            writer.add(make_segment(rng, steps=1 + 3 * i, episode=f"e{i}"), ("twin",))
        assert writer.flush(10) == 0
    reader = reader_of(settings, n_step=1)
    while reader.poll():
        pass
    _, drawn = np.unique(reader.sample(rng, {"twin": 22_000}).embedding[:, 0], return_counts=True)
    assert len(drawn) == 22
    assert np.abs(drawn - 1000).max() < 6 * np.sqrt(1000)
