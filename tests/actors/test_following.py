"""These tests check that no episode begins with weights that break their promise, and that the status says why."""

import asyncio
import threading
from contextlib import closing

import numpy as np
import pytest
import torch
from test_holding import TIMEOUT_S, Endless, until
from test_loop import Guide, Sink, tags
from weights_process import WeightsProcess

from actors import EpisodeLoop, EpisodeRecorder
from actors.policies import NewestWeights, WeightsPolicy
from actors.sim import FleetSettings, TwinWorld
from actors.sim.policy_server import PolicyServer
from policy.model import Policy
from policy.octo.settings import OctoSettings
from policy.settings import PolicySettings, preset
from protos.errors import CorruptData
from protos.settings import to_json
from protos.tensors import part_sha256
from services.replay import ReplaySettings
from services.weights import StalenessBound, WeightPublisher

TEXT = "put the cube on the target"
FORGED = "0123456789abcdef" * 4
PAIRS = PolicySettings(octo=OctoSettings(side_px=32, wrist_px=32, window=2, max_horizon=2))


class Published:
    """Is a version as a subscriber hands it out."""

    def __init__(self, policy, version, backbone_id=None):
        self.parts, self.version = policy.parts(), version
        self.sha256 = {name: part_sha256(part) for name, part in self.parts.items()}
        self.settings = {"policy": to_json(policy.settings), "backbone_id": backbone_id or self.sha256["backbone"]}


class Subscriber:
    newest = None

    def latest(self):
        return self.newest


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Policy(preset("tiny"))


@pytest.fixture
def weights(tmp_path):
    with WeightsProcess(tmp_path / "weights") as process:
        yield process


def publish(publisher, policy, backbone_id=None):
    settings = {"policy": to_json(policy.settings), "backbone_id": backbone_id or policy.sha256("backbone")}
    publisher.publish(policy.parts(), settings=settings)
    publisher.wait(TIMEOUT_S)


def test_a_refused_version_leaves_the_one_before_in_place(network, caplog):
    subscriber = Subscriber()
    newest = NewestWeights(subscriber, TEXT)
    newest.refresh()
    assert (newest.version, newest.refusal) == (-1, "")
    with pytest.raises(CorruptData, match="no version yet"):
        _ = newest.actor
    subscriber.newest = Published(network, 1)
    newest.refresh()
    assert (newest.version, newest.refusal) == (1, "")
    subscriber.newest = Published(network, 2, FORGED)
    for _ in range(3):
        newest.refresh()
    assert newest.version == newest.actor.version == 1
    assert newest.refusal.startswith("weights: refused, version 2 holds backbone ")
    assert newest.refusal.endswith(f"its settings promise {FORGED[:16]}…")
    assert len(caplog.records) == 1, "looked at once"
    subscriber.newest = Published(network, 3)
    newest.refresh()
    assert (newest.version, newest.refusal) == (3, "")


def test_weights_that_cannot_be_acted_with_here_are_refused_too(network, tmp_path):
    subscriber = Subscriber()
    subscriber.newest = Published(network, 1)
    subscriber.newest.settings["policy"]["language_folder"] = str(tmp_path / "t5")
    newest = NewestWeights(subscriber, TEXT)
    newest.refresh()
    assert newest.refusal.startswith("weights: refused, language_folder=")
    assert "no such folder on this machine" in newest.refusal
    subscriber.newest = Published(network, 2)
    newest.refresh()
    assert (newest.version, newest.refusal) == (2, "")


def test_when_the_first_version_is_refused_there_is_nobody_to_ask(network):
    subscriber = Subscriber()
    subscriber.newest = Published(network, 1, FORGED)
    newest = NewestWeights(subscriber, TEXT)
    newest.refresh()
    with pytest.raises(CorruptData, match="version 1 holds backbone"):
        _ = newest.actor


def test_an_arm_holds_while_its_weights_are_refused(weights, network):
    with closing(WeightPublisher(weights.address, connect_deadline_s=TIMEOUT_S)) as publisher:
        publish(publisher, network, FORGED)
        policy = WeightsPolicy(
            weights.address, TEXT, explore=0.0, seed=0, first_timeout_s=TIMEOUT_S, bound=StalenessBound()
        )
        stopping = threading.Event()
        with closing(policy):
            world = Endless()
            loop = EpisodeLoop(world, policy, Guide(-1), EpisodeRecorder(tags()), Sink())
            thread = threading.Thread(target=loop.run, args=(stopping.is_set,))
            thread.start()
            try:
                until(lambda: loop.stats.waits_for, "the loop is held")
                assert loop.stats.waits_for.startswith("weights: refused, version 1 holds")
                assert loop.stats.steps == 0
                publish(publisher, network)
                until(lambda: loop.stats.episodes > 2, "episodes with the next version")
                publish(publisher, network, FORGED)
                until(lambda: "version 3" in loop.stats.waits_for, "the loop is held again")
                assert loop.stats.steps == 3 * loop.stats.episodes, "whatever began was finished"
                assert policy.act(world.observe()).version == 2
            finally:
                stopping.set()
                thread.join(TIMEOUT_S)


def server_settings(address, folder):
    return FleetSettings(
        world=TwinWorld(scene=folder),
        replay=ReplaySettings(urls=("unix:///nowhere",)),
        weights=address,
        run_dir=folder,
    )


def test_the_policy_server_holds_its_twin_actors_and_goes_on(weights, network, tmp_path):
    server = PolicyServer(server_settings(weights.address, tmp_path), TEXT)

    def ready():
        return asyncio.run(server.ready())

    with closing(WeightPublisher(weights.address, connect_deadline_s=TIMEOUT_S)) as publisher:
        publish(publisher, network, FORGED)
        until(lambda: "refused" in ready(), "the first version is refused")
        assert asyncio.run(server.stats())["version"] == -1
        publish(publisher, network)
        until(lambda: not ready(), "the second version")
        assert asyncio.run(server.stats())["version"] == 2
    server._subscriber.close()


def test_the_policy_server_joins_windows_of_several_actors(weights, tmp_path):
    torch.manual_seed(0)
    network = Policy(PAIRS)
    server = PolicyServer(server_settings(weights.address, tmp_path), TEXT)
    rng = np.random.default_rng(0)
    side, wrist = rng.integers(0, 256, (2, 3, 2, 32, 32, 3), np.uint8)
    proprio = rng.normal(size=(3, 2, 25)).astype(np.float32)
    pad = np.array([[True, False], [False, False], [True, False]])

    async def ask(*groups):
        calls = [server.act(side[rows], wrist[rows], proprio[rows], 0.0, pad[rows]) for rows in groups]
        return await asyncio.gather(*calls)

    with closing(WeightPublisher(weights.address, connect_deadline_s=TIMEOUT_S)) as publisher:
        publish(publisher, network)
        assert asyncio.run(server.window()) == 2
        (alone,) = asyncio.run(ask(slice(0, 3)))
        first, second, third = asyncio.run(ask(slice(0, 1), slice(1, 2), slice(2, 3)))
    assert asyncio.run(server.stats())["batches"] <= 3, "requests that wait form one batch"
    for i, one in enumerate((first, second, third)):
        np.testing.assert_allclose(one[1][0], alone[1][i], atol=1e-5)
        assert one[0].shape == (1, 7) and one[2:] == alone[2:] == (1, network.sha256("backbone"))
    server._subscriber.close()
