"""Two RLlib learners in processes of their own give the parameters of one; the death of one is told.

Starting them takes seconds, so all tests share them, and the last one kills.
"""

import os
import signal

import pytest
import torch
from samples import make_batch, make_policy

from learner.optimization import ComputeSettings
from learner.rl import WARMUP, ActorSettings, CriticSettings, Phase, RlAgent, UpdateSettings
from learner.rl.rllib import RllibUpdater
from protos.errors import TwinRLError

SETTINGS = UpdateSettings(
    critic=CriticSettings(width=32), compute=ComputeSettings(nan_limit=2), actor=ActorSettings(every=2)
)


@pytest.fixture(scope="module")
def updater():
    made = RllibUpdater(make_policy(), SETTINGS, seed=5, learners=2)
    yield made
    made.close()


@pytest.fixture
def plain(updater):
    """Returns an agent of this process in the state of the two others."""
    made = RlAgent(make_policy(), SETTINGS, seed=5)
    made.load_tensors(updater.tensors())
    return made


def distance(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def test_two_learners_are_one_on_the_joined_batch(updater, plain):
    """The warm-up leaves the head without gradients, and so does every other online update."""
    for each in (plain, updater):
        each.fit_normalization(make_batch(100, seed=9))
    for i in range(40):
        phase = WARMUP if i < 15 else Phase(progress=i / 40)
        batch = make_batch(32, seed=i)
        batch["weight"][:16] = 0.3  # halves that differ in weight and in what may be imitated
        batch["imitate"][20:] = 0.0
        one, two = plain.update(batch, phase), updater.update(batch, phase)
        assert two.metrics == pytest.approx(one.metrics, abs=1e-5)
        assert two.td_error == pytest.approx(one.td_error, abs=1e-5)
    assert distance(plain.tensors(), updater.tensors()) < 1e-5


def test_all_learners_skip_what_one_of_them_cannot_use(updater, plain):
    batch = make_batch(32, seed=60)
    batch["reward"][30] = float("nan")  # in the second learner's part
    before = updater.tensors()
    for each in (plain, updater):
        assert each.update(batch, Phase()).metrics["skipped"] == 1
    for each in (plain, updater):
        each.update(make_batch(32, seed=61), Phase())
    assert distance(plain.tensors(), updater.tensors()) < 1e-5
    updater.update(batch, Phase())
    with pytest.raises(TwinRLError, match="diverged: 2 updates in a row"):
        updater.update(batch, Phase())
    updater.load_tensors(before)


def test_going_back_reaches_every_learner(updater, plain):
    before = updater.tensors()
    first = updater.update(make_batch(32, seed=70), Phase()).metrics
    for i in range(3):
        updater.update(make_batch(32, seed=71 + i), Phase())
    updater.load_tensors(before)
    assert distance(updater.tensors(), before) == 0.0
    assert updater.update(make_batch(32, seed=70), Phase()).metrics == first
    plain.update(make_batch(32, seed=70), Phase())
    assert distance(plain.tensors(), updater.tensors()) < 1e-5


def test_a_batch_without_equal_parts_is_refused(updater):
    with pytest.raises(TwinRLError, match="31 rows cannot be split into 2 equal parts"):
        updater.update(make_batch(31), Phase())


def test_a_dead_learner_is_one_clear_error_ever_after(updater):
    assert all(torch.isfinite(tensor).all() for tensor in updater.tensors().values())
    pids = updater.pids()
    assert len(set(pids)) == 2
    assert os.getpid() not in pids
    os.kill(pids[1], signal.SIGKILL)
    calls = [lambda: updater.update(make_batch(32), Phase()), updater.tensors, lambda: updater.parts(("head",))]
    for call in [calls[0], *calls]:
        with pytest.raises(TwinRLError, match=r"a learner is gone \(.*--resume goes on from it"):
            call()
