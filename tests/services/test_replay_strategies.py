"""Tests how often each transition is drawn, against the probabilities written out, and sum tree and queues."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from replay_samples import START, make_segment, read_all, reader_of, send

from protos.errors import InputError
from protos.schema import Outcome
from services.replay import EmbeddedServer, ReplayReader, ReplaySettings
from services.replay.read.sampling import Cells, Priority, Queues, SumTree, Uniform

names = count()


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as server:
        yield server.url


@pytest.fixture
def settings(url) -> ReplaySettings:
    return ReplaySettings(urls=(url,), prefix=f"test{next(names)}")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def assert_drawn_as(probabilities: dict[float, float], drawn: np.ndarray) -> None:
    """Pearson's chi-square: k − 1 degrees of freedom, mean k − 1, deviation √(2 (k − 1)); six of them are allowed."""
    values, found = np.unique(drawn, return_counts=True)
    assert set(values.tolist()) == {key for key, p in probabilities.items() if p > 0}
    expected = len(drawn) * np.array([probabilities[value] for value in values.tolist()])
    assert expected.min() > 5
    freedom = len(values) - 1
    assert np.square(found - expected).dot(1 / expected) < freedom + 6 * np.sqrt(2 * freedom)


def keys_of(segments) -> list[float]:
    """The transitions of these episodes, each by the first number of its observation's readout."""
    return [key for segment in segments for key in segment.embedding[:-1, 0].tolist()]


def in_cell(rng, cell: int, **options):
    return replace(make_segment(rng, **options), configuration=replace(START, cell=cell))


def draw(reader: ReplayReader, size: int = 40_000) -> np.ndarray:
    return reader.sample(np.random.default_rng(1), {"twin": size}).embedding[:, 0]


@pytest.mark.parametrize("capacity", [1000, 40])
def test_uniform(settings, rng, capacity):
    episodes = [make_segment(rng, steps=1 + i, episode=f"e{i}") for i in range(10)]
    send(settings, episodes)
    reader = read_all(reader_of(settings, capacity={"twin": capacity}, sampling={"twin": Uniform()}))
    held = keys_of(episodes)[-reader.counts()["twin"] :]
    assert_drawn_as(dict.fromkeys(held, 1 / len(held)), draw(reader))


class TestCells:
    @pytest.mark.parametrize("capacity", [1000, 40])
    def test_cells_by_weight_and_transitions_of_a_cell_alike(self, settings, rng, capacity):
        episodes = [in_cell(rng, i % 4, steps=1 + i, episode=f"e{i}") for i in range(12)]
        send(settings, episodes)
        reader = read_all(reader_of(settings, capacity={"twin": capacity}, sampling={"twin": Cells(floor=0.1)}))
        reader.weigh_cells("twin", {0: 3.0, 1: 0.5, 2: 0.0, 77: 9.0})
        weights = {0: 3.0, 1: 0.5, 2: 0.1, 3: 1.0}
        held = keys_of(episodes)[-reader.counts()["twin"] :]
        cell = {key: episode.configuration.cell for episode in episodes for key in keys_of([episode])}
        sizes = {c: sum(cell[key] == c for key in held) for c in weights}
        total = sum(weight for c, weight in weights.items() if sizes[c])
        assert_drawn_as({key: weights[cell[key]] / total / sizes[cell[key]] for key in held}, draw(reader))

    def test_without_weights_all_cells_count_the_same(self, settings, rng):
        episodes = [in_cell(rng, cell, steps=steps, episode=f"e{cell}") for cell, steps in ((5, 2), (-1, 8))]
        send(settings, episodes)
        reader = read_all(reader_of(settings, sampling={"twin": Cells()}))
        short, long = map(keys_of, ([episodes[0]], [episodes[1]]))
        assert_drawn_as(dict.fromkeys(short, 1 / 4) | dict.fromkeys(long, 1 / 16), draw(reader))

    def test_weights_set_before_the_first_episode_hold(self, settings, rng):
        reader = reader_of(settings, sampling={"twin": Cells(floor=1e-9)})
        reader.weigh_cells("twin", {1: 0.0})
        send(settings, [in_cell(rng, cell, episode=f"e{cell}") for cell in (1, 2)])
        assert (read_all(reader).sample(rng, {"twin": 1000}).cell == 2).all()

    def test_success_rates_are_of_the_policy_alone_and_of_late(self, settings, rng):
        def batch(cell: int, outcome: Outcome, times: int, human: float = 0.0) -> list:
            return [
                in_cell(rng, cell, steps=1, outcome=outcome, human=human, episode=f"{cell}/{outcome.value}/{i}")
                for i in range(times)
            ]

        send(settings, batch(1, Outcome.FAILURE, 5) + batch(1, Outcome.SUCCESS, 100), incarnation="a")
        send(settings, batch(2, Outcome.SUCCESS, 20, human=1.0) + batch(3, Outcome.TIMEOUT, 3), incarnation="b")
        send(settings, batch(3, Outcome.RUNNING, 1) + batch(4, Outcome.SUCCESS, 1), incarnation="c")
        rates = read_all(reader_of(settings)).success_rates("twin")
        assert rates == {1: pytest.approx(1, abs=0.01), 2: 0.0, 3: 0.0, 4: 1.0}


class TestPriority:
    def reader(self, settings, episodes, capacity: int = 1000, **options) -> ReplayReader:
        send(settings, episodes)
        return read_all(
            reader_of(settings, capacity={"twin": capacity}, sampling={"twin": Priority(**options)}, n_step=1)
        )

    def tell(self, reader: ReplayReader, errors: dict[float, float]) -> None:
        """Sets every transition's error, by way of batches that hold them all."""
        batch = reader.sample(np.random.default_rng(2), {"twin": 5000})
        assert set(batch.embedding[:, 0].tolist()) >= errors.keys()
        reader.update_priorities(batch, np.array([errors.get(key, np.nan) for key in batch.embedding[:, 0].tolist()]))

    @pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
    def test_rows_are_drawn_by_their_error_and_weighed_against_it(self, settings, rng, alpha):
        episodes = [make_segment(rng, steps=5, episode=f"e{i}") for i in range(6)]
        reader = self.reader(settings, episodes, alpha=alpha, beta=0.7, beta_end=0.9, epsilon=0.01)
        errors = dict(zip(keys_of(episodes), rng.uniform(0, 3, 30).tolist(), strict=True))
        self.tell(reader, errors)
        mass = {key: (error + 0.01) ** alpha for key, error in errors.items()}
        probability = {key: m / sum(mass.values()) for key, m in mass.items()}
        assert_drawn_as(probability, draw(reader))
        for progress, beta in ((None, 0.7), (0.5, 0.8), (1.0, 0.9)):
            if progress is not None:
                reader.anneal(progress)
            batch = reader.sample(rng, {"twin": 500})
            raw = np.array([(30 * probability[key]) ** -beta for key in batch.embedding[:, 0].tolist()])
            np.testing.assert_allclose(batch.weight, raw / raw.max(), rtol=1e-5)

    def test_new_rows_come_with_the_largest_priority_there_has_been(self, settings, rng):
        old, new = make_segment(rng, episode="old"), make_segment(rng, episode="new")
        reader = self.reader(settings, [old], alpha=1.0)
        keys = keys_of([old])
        self.tell(reader, {keys[0]: 8.0})
        self.tell(reader, {keys[0]: 2.0, keys[1]: 1.0, keys[2]: 1.0, keys[3]: 1.0})
        send(settings, [new], incarnation="next")
        read_all(reader)
        mass = dict(zip(keys, [2.001, 1.001, 1.001, 1.001], strict=True)) | dict.fromkeys(keys_of([new]), 8.001)
        assert_drawn_as({key: m / sum(mass.values()) for key, m in mass.items()}, draw(reader))

    def test_errors_of_overwritten_rows_and_nans_are_ignored(self, settings, rng):
        first = make_segment(rng, steps=16, episode="first")
        reader = self.reader(settings, [first], capacity=17, alpha=1.0)
        stale = reader.sample(rng, {"twin": 50})
        second = make_segment(rng, steps=16, episode="second")
        send(settings, [second], incarnation="next")
        read_all(reader)
        reader.update_priorities(stale, np.full(50, 1e6))
        reader.update_priorities(reader.sample(rng, {"twin": 50}), np.full(50, np.nan))
        keys = keys_of([second])
        assert_drawn_as(dict.fromkeys(keys, 1 / 16), draw(reader))

    def test_only_buffers_with_priorities_heed_errors(self, settings, rng):
        for buffer in ("demo", "twin"):
            send(settings, [make_segment(rng, episode=buffer)], buffer, incarnation=buffer)
        both = {"demo": 100, "twin": 100}
        reader = reader_of(settings, capacity=both, sampling={"twin": Priority(alpha=1.0)})
        batch = read_all(reader).sample(rng, {"demo": 200, "twin": 200})
        errors = np.where(batch.action[:, 0] == batch.action[:, 0].max(), 1000.0, 1e-3)
        reader.update_priorities(batch, errors)
        again = reader.sample(rng, {"demo": 200, "twin": 200})
        assert (again.weight[:200] == 1).all()
        assert len(np.unique(again.action[:200, 0])) == 4


def test_mistakes_are_named(settings):
    with pytest.raises(InputError, match=r"floor=0"):
        Cells(floor=0)
    with pytest.raises(InputError, match=r"alpha=1\.5"):
        Priority(alpha=1.5)
    with pytest.raises(InputError, match="sampling of 'demo': it has no capacity"):
        reader_of(settings, sampling={"demo": Cells()})
    reader = reader_of(settings)
    with pytest.raises(InputError, match="not drawn by cells"):
        reader.weigh_cells("twin", {1: 1.0})
    with pytest.raises(InputError, match="'real' has no capacity"):
        reader.weigh_cells("real", {})
    with pytest.raises(InputError, match=r"weights of cells \{3: -1\.0\}"):
        reader_of(settings, sampling={"twin": Cells()}).weigh_cells("twin", {2: 1.0, 3: -1.0})


@given(
    changes=st.lists(st.tuples(st.integers(0, 36), st.integers(0, 5)), min_size=1, max_size=80),
    capacity=st.sampled_from([37, 64, 100]),
    seed=st.integers(0, 2**32),
)
@hypothesis_settings(deadline=None)
def test_sum_tree_equals_cumulative_sums(changes, capacity, seed):
    tree, mass = SumTree(capacity), np.zeros(capacity)
    for part in np.array_split(np.array(changes), 3):
        rows = part[:, 0].astype(np.intp)
        tree.set(rows, part[:, 1].astype(float))
        for row, value in part:
            mass[row] = value
    assert tree.total == mass.sum()
    np.testing.assert_array_equal(tree.get(np.arange(capacity)), mass)
    if tree.total:
        position = np.random.default_rng(seed).uniform(0, tree.total, 200)
        position[:3] = 0.0, np.nextafter(tree.total, 0), np.floor(tree.total / 2)
        np.testing.assert_array_equal(tree.find(position), np.searchsorted(np.cumsum(mass), position, side="right"))


OPERATIONS = st.lists(st.tuples(st.integers(0, 4), st.integers(-30, 40)), max_size=120)


@given(OPERATIONS)
@hypothesis_settings(deadline=None)
def test_queues_equal_deques(operations):
    """A positive number pushes as many rows to a queue, a negative one drops them from the front."""
    queues, naive, rows = Queues(), [deque() for _ in range(5)], count()
    for _ in naive:
        queues.new()
    for queue, size in operations:
        if size > 0:
            new = [next(rows) for _ in range(size)]
            queues.push(queue, np.array(new))
            naive[queue].extend(new)
        else:
            gone = min(-size, len(naive[queue]))
            queues.drop(np.full(gone, queue))
            for _ in range(gone):
                naive[queue].popleft()
        assert queues.lengths.tolist() == [len(each) for each in naive]
    for queue, each in enumerate(naive):
        found = queues.at(np.full(len(each), queue), np.arange(len(each)))
        assert found.tolist() == list(each)
