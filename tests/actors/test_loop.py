"""The episode loop and its recorder, with an environment, a policy, a guide and an operator that check what they get.

The fake world writes episode and step into the proprioception and the images, so that every row of every segment
says where it belongs.
"""

from itertools import pairwise

import numpy as np
import pytest

from actors import Decision, EpisodeRecorder, EpisodeTags
from actors.loop import EpisodeLoop, idle_actions
from actors.quarantine import SLOT_LIMIT
from protos.errors import TwinRLError
from protos.schema import SEGMENT_STEPS, Configuration, Observation, Outcome, Source, Step

PX = 16


class Script:
    """One planned episode: its length and how it ends; optionally a step at which the sensors fail."""

    def __init__(self, steps, outcome=Outcome.SUCCESS, nan_at=None):
        self.steps, self.outcome, self.nan_at = steps, outcome, nan_at


class World:
    """n slots that play scripted episodes. `executed` differs from the action asked for, as limits make it."""

    def __init__(self, n, scripts):
        self.n, self._left = n, list(scripts)
        self.episode, self.step_of, self.script = [-1] * n, [0] * n, [None] * n
        self.resets, self._count = [], 0
        self.asked = []

    def reset(self, slot, configuration):
        assert 0 <= slot < self.n and isinstance(configuration, Configuration)
        self.script[slot] = self._left.pop(0)
        self.episode[slot], self.step_of[slot] = self._count, 0
        self._count += 1
        self.resets.append((slot, configuration.cell))

    def observe(self):
        proprio = np.zeros((self.n, 25), np.float32)
        frame = np.zeros((self.n, PX, PX, 3), np.uint8)
        for slot in range(self.n):
            proprio[slot, :2] = self.episode[slot], self.step_of[slot]
            frame[slot] = self.step_of[slot]
            if self.script[slot] and self.script[slot].nan_at == self.step_of[slot]:
                proprio[slot, 5] = np.nan
        return Observation(side=frame, wrist=frame + 100, proprio=proprio)

    def step(self, action):
        assert action.shape == (self.n, 7) and np.isfinite(action).all()
        self.asked.append(action.copy())
        ends = np.zeros((2, self.n), bool)
        success = np.zeros(self.n, bool)
        for slot, script in enumerate(self.script):
            self.step_of[slot] += 1
            if script and self.step_of[slot] == script.steps:
                ends[int(script.outcome is Outcome.TIMEOUT), slot] = True
                success[slot] = script.outcome is Outcome.SUCCESS
        executed = np.clip(action * 0.5, -1, 1).astype(np.float32)
        return Step(
            executed=executed,
            reward=success.astype(np.float32),
            terminated=ends[0],
            truncated=ends[1],
            success=success,
        )


class Policy:
    """Answers the step it sees in every number; checks that it never sees a NaN."""

    window = 1

    def __init__(self, embed=True):
        self.version, self.backbone_id, self._embed = 4, "b0", embed

    def ready(self):
        return ""

    def act(self, observation, pad):
        assert not len(observation.bad_rows()) and pad is None
        step = observation.proprio[:, 1:2]
        action = np.repeat(step / 100, 7, axis=1).astype(np.float32)
        embedding = np.repeat(step, 3, axis=1).astype(np.float32) if self._embed else None
        return Decision(action=action, embedding=embedding, version=self.version, backbone_id=self.backbone_id)


class Guide:
    def __init__(self, count):
        self.count, self.given, self.results = count, 0, []

    def next(self):
        if self.given == self.count:
            return None
        self.given += 1
        return Configuration(region="A", cell=self.given - 1)

    def report(self, result):
        self.results.append(result)


class Sink:
    def __init__(self):
        self.segments = []

    def add(self, segment):
        assert 1 <= segment.steps <= SEGMENT_STEPS
        assert len(segment.observation) == segment.steps + 1
        self.segments.append(segment)

    def episodes(self):
        names = dict.fromkeys(segment.episode for segment in self.segments)
        return [[one for one in self.segments if one.episode == name] for name in names]


class Operator:
    """Holds the slots at the (slot, step)s it is given."""

    def __init__(self, *held):
        self.held = set(held)

    def override(self, slot, step, observation):
        assert observation.proprio[slot, 1] == step
        return np.full(7, 0.8, np.float32) if (slot, step) in self.held else None


def tags():
    return EpisodeTags(actor="a", incarnation="i", task="t", scene="s", instruction="words", source=Source.REAL)


def play(scripts, n=1, operator=None, policy=None, stop=lambda: False):
    world, guide, sink = World(n, scripts), Guide(len(scripts)), Sink()
    loop = EpisodeLoop(world, policy or Policy(), guide, EpisodeRecorder(tags()), sink, operator)
    loop.run(stop)
    return world, guide, sink, loop


@pytest.mark.parametrize("steps", [1, 15, 16, 17, 32, 33, 50])
def test_segments_join_without_a_gap_or_an_overlap(steps):
    *_, sink, _ = play([Script(steps)])
    (segments,) = sink.episodes()
    assert [one.first_step for one in segments] == list(range(0, steps, SEGMENT_STEPS))
    assert sum(one.steps for one in segments) == steps
    for one, following in pairwise(segments):
        np.testing.assert_array_equal(one.observation.proprio[-1], following.observation.proprio[0])
        np.testing.assert_array_equal(one.embedding[-1], following.embedding[0])
    seen = np.concatenate([one.observation.proprio[:-1, 1] for one in segments])
    np.testing.assert_array_equal(seen, np.arange(steps))
    assert segments[-1].observation.proprio[-1, 1] == steps, "the last observation is the one after the last action"


def test_every_row_belongs_to_its_step():
    *_, sink, _ = play([Script(20)])
    for segment in sink.segments:
        rows = np.arange(segment.first_step, segment.first_step + segment.steps + 1)
        np.testing.assert_array_equal(segment.observation.side[:, 0, 0, 0], rows)
        np.testing.assert_array_equal(segment.observation.wrist[:, 0, 0, 0], rows + 100)
        np.testing.assert_array_equal(segment.embedding[:, 0], rows)
        np.testing.assert_allclose(segment.action[:, 0], rows[:-1] / 200, err_msg="the executed action is stored")


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMEOUT])
def test_only_the_last_segment_knows_the_outcome(outcome):
    _, guide, sink, loop = play([Script(20, outcome)])
    assert [one.outcome for one in sink.segments] == [Outcome.RUNNING, outcome]
    assert [float(one.reward.sum()) for one in sink.segments] == [0.0, float(outcome is Outcome.SUCCESS)]
    (result,) = guide.results
    assert (result.outcome, result.steps, result.version) == (outcome, 20, 4)
    assert (loop.stats.episodes, loop.stats.steps) == (1, 20)
    assert loop.stats.successes == (outcome is Outcome.SUCCESS)


def test_several_slots_interleave_and_a_fresh_slot_only_idles():
    world, guide, sink, loop = play([Script(3), Script(7), Script(5), Script(4)], n=2)
    assert world.resets == [(0, 0), (1, 1), (0, 2), (1, 3)]
    lengths = {result.configuration.cell: result.steps for result in guide.results}
    # a fresh slot idles for one control step in which the scripted world goes on: one step less is recorded
    assert lengths == {0: 3, 1: 7, 2: 4, 3: 3}
    np.testing.assert_array_equal(world.asked[3][0], idle_actions(1)[0])
    assert loop.stats.steps == sum(lengths.values()) == sum(one.steps for one in sink.segments)
    for segments in sink.episodes():
        episodes = np.concatenate([one.observation.proprio[:, 0] for one in segments])
        assert len(set(episodes)) == 1, "rows of two episodes never mix"


def test_the_loop_ends_when_the_guide_has_nothing_left():
    world, guide, *_ = play([Script(2)] * 3)
    assert len(guide.results) == 3 and len(world.resets) == 3, "no reset after the last episode"


def test_stopping_drops_the_unfinished_episode_but_not_its_sent_segments():
    turns = iter(range(1000))
    _, guide, sink, loop = play([Script(500)], stop=lambda: next(turns) >= 40)
    assert guide.results == [] and loop.stats.steps == 40
    assert [one.steps for one in sink.segments] == [16, 16]
    assert {one.outcome for one in sink.segments} == {Outcome.RUNNING}


def test_an_episode_with_a_nan_is_dropped_and_counted():
    world, guide, sink, loop = play([Script(9, nan_at=4), Script(6)])
    assert loop.stats.bad_observations == 1 and len(world.resets) == 2
    assert [result.steps for result in guide.results] == [6]
    assert all(np.isfinite(one.observation.proprio).all() for one in sink.segments)
    assert {one.episode for one in sink.segments} == {"a/i/1"}


def test_a_nan_after_the_last_action_drops_that_episode_too():
    _, guide, sink, loop = play([Script(5, nan_at=5), Script(3)])
    assert [result.steps for result in guide.results] == [3] and len(sink.segments) == 1
    assert loop.stats.bad_observations == 1


def test_a_nan_when_nothing_is_left_ends_the_loop():
    _, guide, sink, loop = play([Script(5, nan_at=2)])
    assert guide.results == [] and sink.segments == [] and loop.stats.bad_observations == 1


def test_a_slot_that_breaks_after_every_reset_ends_the_loop_when_it_is_the_last():
    with pytest.raises(TwinRLError, match=r"no slot is left: slot 0 \(cell 2\): NaN .* right after a reset"):
        play([Script(5, nan_at=0)] * 4)


def test_a_nan_in_one_slot_leaves_the_other_alone():
    _, guide, _, loop = play([Script(9, nan_at=4), Script(8), Script(3)], n=2)
    assert sorted(result.configuration.cell for result in guide.results) == [1, 2]
    assert {result.configuration.cell: result.steps for result in guide.results}[1] == 8
    assert loop.stats.bad_observations == 1


def test_interventions_are_counted_by_takeover_and_marked_by_step():
    held = [(0, step) for step in (2, 3, 4, 9, 10)]
    _, guide, sink, loop = play([Script(12)], operator=Operator(*held))
    (result,) = guide.results
    assert (result.human_steps, result.interventions, loop.stats.interventions) == (5, 2, 2)
    (segment,) = sink.segments
    assert np.flatnonzero(segment.human).tolist() == [2, 3, 4, 9, 10]
    np.testing.assert_allclose(segment.action[2], 0.4, err_msg="the operator's action, as executed")
    assert segment.policy_versions == (4, 4)


def test_a_takeover_goes_on_over_a_seam_and_counts_once():
    held = [(0, step) for step in range(14, 20)]
    _, guide, sink, _ = play([Script(20)], operator=Operator(*held))
    assert guide.results[0].interventions == 1
    assert [int(one.human.sum()) for one in sink.segments] == [2, 4]


def test_a_demonstration_has_no_policy_version():
    *_, sink, _ = play([Script(4)], operator=Operator(*((0, step) for step in range(4))))
    assert sink.segments[0].policy_versions == (-1, -1)


def test_versions_span_oldest_to_newest():
    class Learning(Policy):
        def act(self, observation, pad):
            self.version += 1
            return super().act(observation, pad)

    _, guide, sink, _ = play([Script(6)], policy=Learning())
    assert sink.segments[0].policy_versions == (5, 10) and guide.results[0].version == 10


def test_a_segment_of_two_backbones_leaves_without_embeddings():
    class Changing(Policy):
        def act(self, observation, pad):
            self.backbone_id = "b0" if observation.proprio[0, 1] < 8 else "b1"
            return super().act(observation, pad)

    *_, sink, _ = play([Script(20)], policy=Changing())
    first, second = sink.segments
    assert first.embedding is None and first.backbone_id == ""
    assert second.embedding.shape == (5, 3) and second.backbone_id == "b1"


def test_a_policy_without_embeddings():
    *_, sink, _ = play([Script(3)], policy=Policy(embed=False))
    assert sink.segments[0].embedding is None


def test_tags_and_names_travel():
    *_, sink, _ = play([Script(3), Script(2)])
    assert [one.episode for one in sink.segments] == ["a/i/0", "a/i/1"]
    assert {(one.task, one.scene, one.instruction, one.source) for one in sink.segments} == {
        ("t", "s", "words", Source.REAL)
    }
    assert [one.configuration.cell for one in sink.segments] == [0, 1]


def test_a_loop_that_ran_out_of_starts_runs_again_and_a_slot_that_stays_out_does_not():
    broken = [Script(9, nan_at=0)] * SLOT_LIMIT
    world, guide, _, loop = play([*broken[:1], Script(3), *broken[1:]], n=2)
    assert loop.stats.episodes == 1 and list(loop.quarantine.slots) == [0]
    world._left, guide.count = [Script(4), Script(6)], guide.given + 2
    loop.run(lambda: False)
    assert [slot for slot, _ in world.resets[-2:]] == [1, 1]
    assert loop.stats.episodes == 3
