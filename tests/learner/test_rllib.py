"""The update inside RLlib in this process equals the plain one to the last digit."""

import pytest
import torch
from samples import make_batch, make_image_batch, make_policy

from learner.optimization import ComputeSettings
from learner.rl import WARMUP, ActorSettings, CriticSettings, Phase, RlAgent, UpdateSettings
from learner.rl.rllib import RllibUpdater
from protos.errors import TwinRLError

SETTINGS = UpdateSettings(critic=CriticSettings(width=32), compute=ComputeSettings(nan_limit=3))
PHASES = [WARMUP, WARMUP, Phase(progress=0.1), Phase(progress=0.8), Phase(progress=1.0)]


def make_plain(settings=SETTINGS):
    return RlAgent(make_policy(), settings, seed=5)


@pytest.fixture
def updater():
    made = RllibUpdater(make_policy(), SETTINGS, seed=5)
    yield made
    made.close()


def poisoned(seed=50):
    batch = make_batch(seed=seed)
    batch["reward"][3] = float("nan")
    return batch


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def networks(tensors):
    return {name: tensor for name, tensor in tensors.items() if name != "counters"}


def test_it_is_the_plain_update(updater):
    plain = make_plain()
    for each in (plain, updater):
        each.fit_normalization(make_batch(100, seed=9))
    batches = [make_batch(seed=i) for i in range(len(PHASES))] + [poisoned(), make_batch(seed=51)]
    for batch, phase in zip(batches, [*PHASES, Phase(), Phase()], strict=True):
        one, other = plain.update(batch, phase), updater.update(batch, phase)
        assert one.metrics == pytest.approx(other.metrics, nan_ok=True)
        assert one.td_error == pytest.approx(other.td_error, nan_ok=True)
    assert_same(plain.tensors(), updater.tensors())
    assert updater.tensors()["counters"].tolist() == [7, 1]


def test_images_and_language_come_through():
    settings = UpdateSettings(critic=CriticSettings(width=32, encoder="conv"), actor=ActorSettings(backbone="last"))
    plain, updater = make_plain(settings), RllibUpdater(make_policy(), settings, seed=5)
    for i, phase in enumerate((WARMUP, Phase())):
        batch = make_image_batch(8, seed=i)
        one, other = plain.update(batch, phase), updater.update(batch, phase)
        assert one.metrics == pytest.approx(other.metrics)
    assert_same(plain.tensors(), updater.tensors())
    updater.close()


def test_going_back_restores_weights_and_optimizers(updater):
    """The state holds both; RLlib's own would keep the newer weights beside the older optimizers."""
    updater.update(make_batch(seed=1), Phase())
    before = updater.tensors()
    first = updater.update(make_batch(seed=2), Phase()).metrics
    after = updater.tensors()
    for i in range(3):
        updater.update(make_batch(seed=10 + i), Phase())
    updater.load_tensors(before)
    assert_same(updater.tensors(), before)
    assert updater.update(make_batch(seed=2), Phase()).metrics == first
    assert_same(updater.tensors(), after)


def test_a_fresh_updater_goes_on_from_tensors(updater):
    plain = make_plain()
    for i in range(3):
        plain.update(make_batch(seed=i), Phase())
    updater.load_tensors(plain.tensors())
    assert plain.update(make_batch(seed=7), Phase()).metrics == updater.update(make_batch(seed=7), Phase()).metrics


def test_nan_changes_nothing_until_it_ends_the_run(updater):
    updater.update(make_batch(), Phase())
    before = updater.tensors()
    for count in range(1, SETTINGS.compute.nan_limit):
        assert updater.update(poisoned(), Phase()).metrics["skipped"] == count
    assert_same(networks(updater.tensors()), networks(before))
    with pytest.raises(TwinRLError, match="diverged"):
        updater.update(poisoned(), Phase())
    updater.load_tensors(before)
    assert updater.update(make_batch(), Phase()).metrics["skipped"] == 0


def test_parts_are_those_of_the_policy_that_trains(updater):
    policy = make_policy()
    parts = updater.parts(("backbone", "head"))
    for part, arrays in policy.parts().items():
        for name, array in arrays.items():
            assert (parts[part][name] == array).all()
    kept = {name: array.copy() for name, array in parts["head"].items()}
    updater.update(make_batch(), Phase())
    assert any((array != kept[name]).any() for name, array in updater.parts(("head",))["head"].items())
