"""These tests copy episodes from a replay to dataset folders, and from one format to another."""

from collections import Counter
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from lerobot_samples import SCALE, assert_same, make_episode
from lerobot_samples import SCHEMA as SIZES
from samples import SCHEMA, make_segment

from learner.datasets import (
    ActionScale,
    Choice,
    ExpectedArrays,
    Tally,
    chosen,
    copy,
    make_writer,
    open_dataset,
    stored_schema,
)
from protos.errors import InputError, SchemaMismatch, Unreachable
from protos.schema import Outcome, Schema, Source
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter, find_schema, read_episodes

NUMBERS = count()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("replay")) as server:
        yield server.url


@pytest.fixture
def replay(url):
    """Returns the settings of an empty replay: a prefix of its own."""
    return ReplaySettings(urls=(url,), prefix=f"test-{next(NUMBERS)}")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def send(replay, segments, *buffers, actor="twin/0"):
    with ReplayWriter(replay, SCHEMA, actor=actor, spool=None) as writer:
        for segment in segments:
            writer.add(segment, buffers)
        assert writer.flush(20) == 0


def test_every_episode_of_the_buffers_comes_with_its_frames(replay, rng):
    segments = [make_segment(rng, f"e{i}", region="AB"[i % 2]) for i in range(4)]
    send(replay, segments, "twin")
    send(replay, [make_segment(rng, "real", source=Source.REAL)], "real", actor="arm")
    found = list(read_episodes(replay, SCHEMA, ("twin",)))
    assert [episode.name for episode in found] == ["e0", "e1", "e2", "e3"]
    for segment, episode in zip(segments, found, strict=True):
        assert (episode.configuration, episode.outcome) == (segment.configuration, segment.outcome)
        np.testing.assert_array_equal(episode.observation.side, segment.observation.side)
        np.testing.assert_array_equal(episode.action, segment.action)
    assert {episode.name for episode in read_episodes(replay, SCHEMA, ("twin", "real"))} == {
        *("e0", "e1", "e2", "e3", "real")
    }


def test_more_episodes_than_one_pass_brings(replay, rng):
    """A pass over a server takes 64 segments; none is delivered twice."""
    send(replay, [make_segment(rng, f"e{i}") for i in range(150)], "twin")
    assert [episode.name for episode in read_episodes(replay, SCHEMA, ("twin",))] == [f"e{i}" for i in range(150)]


def test_a_shard_that_is_away_is_not_passed_over(replay, rng):
    send(replay, [make_segment(rng, "e")], "twin")
    found = read_episodes(replace(replay, urls=(*replay.urls, "redis://127.0.0.1:1")), SCHEMA, ("twin",))
    assert next(found).name == "e"
    with pytest.raises(Unreachable, match="shard 1 does not answer"):
        next(found)


def test_the_schema_of_a_replay_is_found_by_its_hash(replay, rng):
    with pytest.raises(InputError, match=r"nothing was written under prefix 'test-\d+'"):
        find_schema(replay)
    send(replay, [make_segment(rng, "e")], "twin")
    assert find_schema(replay) == SCHEMA
    with pytest.raises(SchemaMismatch):
        list(read_episodes(replay, Schema(), ("twin",)))


def test_a_server_that_is_away_is_told():
    away = ReplaySettings(urls=("unix:///nowhere/replay.sock",))
    with pytest.raises(Unreachable):
        find_schema(away)
    with pytest.raises(Unreachable):
        list(read_episodes(away, SCHEMA, ("twin",)))


@pytest.mark.parametrize(("kind", "images"), [("lerobot", "png"), ("lerobot", "video"), ("rlds", "video")])
def test_a_replay_becomes_a_dataset_that_reads_the_same(replay, rng, tmp_path, kind, images):
    send(replay, [make_segment(rng, f"e{i}", region="AB"[i % 2]) for i in range(3)], "twin")
    episodes = list(read_episodes(replay, SCHEMA, ("twin",)))
    writer = make_writer(kind, tmp_path / "d", SCHEMA, action_scale=SCALE, images=images)
    written = Tally()
    assert copy(episodes, writer, written) == 0
    writer.close()
    assert str(written) == "3 episodes, 30 steps (success 3; region A 2, region B 1; twin 3)"
    dataset = open_dataset(tmp_path / "d", SCHEMA)
    assert (dataset.format, dataset.action_scale) == (kind, SCALE)
    for left, right in zip(episodes, dataset, strict=True):
        assert_same(left, right, lossy=images == "video" and kind == "lerobot")


def test_there_and_back_again(rng, tmp_path):
    """LeRobot → RLDS → LeRobot with PNG loses nothing."""
    outcomes = (Outcome.SUCCESS, Outcome.TIMEOUT, Outcome.RUNNING)
    episodes = [make_episode(rng, name=f"e{i}", outcome=outcome) for i, outcome in enumerate(outcomes)]
    source = episodes
    for number, kind in enumerate(("lerobot", "rlds", "lerobot")):
        folder = tmp_path / str(number)
        writer = make_writer(kind, folder, SIZES, action_scale=SCALE, images="png")
        copy(source, writer, Tally())
        writer.close()
        assert stored_schema(folder) == SIZES
        source = open_dataset(folder, SIZES)
        assert source.action_scale == SCALE
    for left, right in zip(episodes, source, strict=True):
        assert_same(left, right)


@pytest.mark.parametrize("kind", ["lerobot", "rlds"])
def test_the_same_export_again_goes_on_where_it_stopped(rng, tmp_path, kind):
    episodes = [make_episode(rng, name=f"e{i}") for i in range(3)]
    for stop, passed in ((2, 0), (3, 2)):
        writer = make_writer(kind, tmp_path / "d", SIZES, action_scale=SCALE)
        assert copy(episodes[:stop], writer, Tally()) == passed
        writer.close()
    assert [episode.name for episode in open_dataset(tmp_path / "d", SIZES)] == ["e0", "e1", "e2"]


class TestChosen:
    @staticmethod
    def names(choice, episodes):
        heard = []
        names = [episode.name for episode in chosen(episodes, choice, heard.append, Counter())]
        return names, len(heard)

    @pytest.mark.parametrize(
        ("choice", "names"),
        [
            (Choice(), ["a", "b", "c"]),
            (Choice(outcomes="success"), ["a", "c"]),
            (Choice(source=Source.REAL), ["c"]),
            (Choice(regions=("A", "B")), ["a", "b", "c"]),
            (Choice(regions=("A",)), []),
            (Choice(limit=1, outcomes="timeout,unknown"), ["b"]),
        ],
    )
    def test_by_region_outcome_world_and_number(self, rng, choice, names):
        episodes = [
            make_episode(rng, name="a"),
            make_episode(rng, name="b", outcome=Outcome.TIMEOUT),
            make_episode(rng, name="c", source=Source.REAL),
        ]
        assert self.names(choice, episodes)[0] == names

    def test_an_episode_of_two_buffers_comes_once(self, rng):
        episode = make_episode(rng, name="a")
        assert self.names(Choice(), [episode, episode]) == (["a"], 2)

    def test_nothing_is_read_beyond_the_limit(self, rng):
        episodes = iter([make_episode(rng, name=name) for name in "abc"])
        assert self.names(Choice(limit=2), episodes) == (["a", "b"], 2)
        assert next(episodes).name == "c"


def test_a_scale_is_kept_apart_from_another(rng, tmp_path):
    make_writer("lerobot", tmp_path / "d", SIZES, action_scale=SCALE).close()
    with pytest.raises(SchemaMismatch, match="action scale"):
        make_writer("lerobot", tmp_path / "d", SIZES, action_scale=ActionScale(metres=1, radians=1))


def test_the_arrays_for_the_check_are_those_that_the_writer_was_given(rng, tmp_path):
    writer = make_writer("rlds", tmp_path / "d", SIZES, action_scale=SCALE)
    arrays = ExpectedArrays(tmp_path / "e.npz", writer)
    episodes = [make_episode(rng, name=f"e{i}", steps=2 + i) for i in range(2)]
    for episode in episodes:
        arrays.add(episode)
    arrays.close()
    writer.close()
    assert len(list(open_dataset(tmp_path / "d", SIZES))) == 2
    with np.load(tmp_path / "e.npz", allow_pickle=False) as file:
        assert str(file["1/instruction"]) == episodes[1].instruction
        np.testing.assert_array_equal(file["1/wrist"], episodes[1].observation.wrist)
        np.testing.assert_array_equal(file["0/action"], episodes[0].action)
