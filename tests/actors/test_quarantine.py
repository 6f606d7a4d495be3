"""Broken worlds: the loop over real twins of which one is poisoned, and what the quarantine remembers."""

import re

import numpy as np
import pytest

from actors import Decision, EpisodeRecorder, EpisodeTags
from actors.loop import EpisodeLoop, idle_actions
from actors.policies import NoPolicy
from actors.quarantine import SLOT_LIMIT, Quarantine, key_of
from protos.errors import TwinRLError
from protos.schema import Configuration, Schema, Source
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import DOMAINS
from twin.scene import synthetic_scene

TASK = tasks.get("pick_and_place")


@pytest.fixture(scope="module")
def scene():
    return synthetic_scene(spacing_m=0.03)


class Poisoned(VectorTwin):
    """Real twins; `poison(slot, times)` breaks the physics of a slot in each of its next steps."""

    def poison(self, slot, how, resets):
        self.victim, self.how, self.left = slot, how, resets

    def reset(self, slot, configuration):
        super().reset(slot, configuration)
        if slot == getattr(self, "victim", None) and self.left > 0:
            self.left -= 1
            self.how(self._physics, slot)


def block_is_nowhere(physics, slot):
    physics.place(np.array([slot]), {TASK.free_bodies[0]: np.full((1, 4), np.nan)})


def block_is_flung_away(physics, slot):
    physics.place(np.array([slot]), {TASK.free_bodies[0]: np.array([[-0.5, 0.1, 500.0, 0.0]])})


class Starts:
    def __init__(self, count, configuration=None):
        self.rng, self.left, self.one, self.results = np.random.default_rng(0), count, configuration, []

    def next(self):
        self.left -= 1
        return None if self.left < 0 else self.one or TASK.space.sample(self.rng)

    def report(self, result):
        self.results.append(result)


class Sink(list):
    def add(self, segment):
        self.append(segment)


class Checking(NoPolicy):
    def act(self, observation, pad=None):
        assert np.isfinite(observation.proprio).all(), "a policy never sees NaN"
        return Decision(action=idle_actions(len(observation)), embedding=None, version=-1, backbone_id="")


def play(scene, how, *, resets, turns=30, seed=77, n=3, guide=None, **extra):
    twin = Poisoned(scene, TASK, n=n, domain=DOMAINS["twin"], seed=seed, schema=Schema(side_px=16, wrist_px=16))
    twin.poison(1, how, resets)
    tags = EpisodeTags(actor="a", incarnation="i", task="t", scene="s", instruction="", source=Source.TWIN)
    quarantine, sink, guide = Quarantine(seed=seed, explain=twin.fault, **extra), Sink(), guide or Starts(1000)
    loop = EpisodeLoop(twin, Checking(), guide, EpisodeRecorder(tags), sink, quarantine=quarantine)
    left = iter(range(turns))
    loop.run(lambda: next(left, None) is None)
    twin.close()
    return loop, sink


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (block_is_nowhere, "'cube' is not finite"),
        (block_is_flung_away, r"'cube' at \(-0.5, 0.1, 500\) m, limit 10 m"),
    ],
)
def test_a_poisoned_slot_stays_out_named_and_the_others_go_on(scene, how, reason):
    loop, sink = play(scene, how, resets=10**6)
    (fault,) = loop.quarantine.slots.values()
    assert fault.slot == 1 and fault.seed == 77 and fault.quarantined
    assert fault.configuration == loop.starts[1]
    assert re.search(reason, fault.reason)
    assert loop.quarantine.count == loop.stats.bad_observations == SLOT_LIMIT
    assert loop.stats.steps == 2 * 30, "the other two made every step"
    assert {segment.episode for segment in sink} == {"a/i/0", "a/i/2"}


def test_a_slot_that_breaks_once_goes_on_elsewhere(scene):
    loop, _ = play(scene, block_is_nowhere, resets=1)
    assert loop.quarantine.slots == {} and loop.quarantine.count == 1
    assert loop.quarantine.faults[0].configuration != loop.starts[1]
    assert loop.stats.steps == 3 * 30


def test_a_twin_shows_nan_for_a_broken_slot_alone(scene):
    twin = Poisoned(scene, TASK, n=2, domain=DOMAINS["twin"], seed=0, schema=Schema(side_px=16, wrist_px=16))
    assert not len(twin.observe().bad_rows()) and twin.fault(0) == twin.fault(1) == ""
    block_is_nowhere(twin._physics, 1)
    for _ in range(2):
        assert twin.observe().bad_rows().tolist() == [1]
        twin.step(idle_actions(2))
    assert twin.fault(0) == "" and "not finite" in twin.fault(1)
    twin.close()


def test_a_start_that_broke_twice_is_passed_over(scene):
    bad = TASK.space.sample(np.random.default_rng(5), cell=3)
    loop, _ = play(scene, block_is_nowhere, resets=2, guide=Starts(40, bad))
    assert loop.quarantine.count == 2 and not loop.quarantine.admits(bad)
    assert loop._retired[1] and 1 not in loop.quarantine.slots, "the guide had nothing else for it"
    fresh, _ = play(scene, block_is_nowhere, resets=0, guide=Starts(40, bad), avoid=[key_of(bad)])
    assert fresh.stats.steps == 0


def test_without_any_slot_left_the_loop_ends_with_the_reason(scene):
    twin = Poisoned(scene, TASK, n=1, domain=DOMAINS["twin"], seed=0, schema=Schema(side_px=16, wrist_px=16))
    twin.poison(0, block_is_nowhere, 10)
    tags = EpisodeTags(actor="a", incarnation="i", task="t", scene="s", instruction="", source=Source.TWIN)
    quarantine = Quarantine(seed=77, first=1, explain=twin.fault)
    loop = EpisodeLoop(twin, Checking(), Starts(100), EpisodeRecorder(tags), Sink(), quarantine=quarantine)
    with pytest.raises(TwinRLError, match=r"no slot is left: slot 1 .*seed 77, cell \d+\): NaN .*'cube'"):
        loop.run(lambda: False)


def test_faults_in_a_row_count_and_a_finished_episode_makes_up_for_them():
    quarantine = Quarantine()
    starts = [Configuration(region="A", cell=cell) for cell in range(2 * SLOT_LIMIT)]
    for start in starts[: SLOT_LIMIT - 1]:
        assert not quarantine.fault(0, start, "x")
    quarantine.finished(0)
    outs = [quarantine.fault(0, start, "x") for start in starts[:SLOT_LIMIT]]
    assert outs == [False] * (SLOT_LIMIT - 1) + [True]
    assert quarantine.slots[0].line() == f"slot 0 (cell {SLOT_LIMIT - 1}): x"


def test_keys_tell_starts_apart_by_a_micrometre():
    one, same, other = (
        Configuration(region="A", cell=1, poses={"block": (x, 0.0, 0.0, 0.0)}) for x in (0.1, 0.1 + 1e-9, 0.1 + 2e-6)
    )
    assert key_of(one) == key_of(same) != key_of(other)
