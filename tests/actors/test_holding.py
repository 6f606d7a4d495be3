"""These tests check that actors with stale weights hold before the next episode, say why, and go on by themselves."""

import asyncio
import threading
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from test_loop import Guide, Policy, Script, Sink, World, play, tags
from weights_process import WeightsProcess

from actors import EpisodeLoop, EpisodeRecorder
from actors.policies import WeightsPolicy
from actors.sim import FleetSettings, TwinWorld
from actors.sim.policy_server import PolicyServer
from policy.model import Policy as Network
from policy.normalize import Normalization
from policy.settings import preset
from protos.settings import from_json, to_json
from services.replay import ReplaySettings
from services.weights import StalenessBound, WeightPublisher

TIMEOUT_S = 60.0


class Waiting(Policy):
    """Is not ready `times` times before every episode but the first."""

    def __init__(self, times):
        super().__init__()
        self.times, self.asked = times, -1

    def ready(self):
        self.asked += 1
        return "weights: 73 versions behind (bound 50)" if self.asked % (self.times + 1) else ""


def test_a_policy_that_is_not_ready_holds_the_loop_before_the_next_episode(caplog):
    policy, said = Waiting(times=2), []
    world, guide, sink = World(1, [Script(5), Script(3), Script(4)]), Guide(3), Sink()

    def stop():
        said.append((loop.stats.waits_for, loop.stats.steps, len(world.resets)))
        return False

    loop = EpisodeLoop(world, policy, guide, EpisodeRecorder(tags()), sink)
    loop.run(stop)
    assert [result.steps for result in guide.results] == [5, 3, 4], "whatever began is finished"
    held = [(steps, resets) for reason, steps, resets in said if reason == "weights: 73 versions behind (bound 50)"]
    assert held == [(5, 1)] * 2 + [(8, 2)] * 2, "nothing is reset and nothing moves while it is held"
    assert loop.stats.waits_for == ""
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "held before the next episode: weights: 73 versions behind (bound 50)"
    ] * 2


def test_a_held_loop_stops_when_told_to():
    class Stale(Policy):
        def ready(self):
            return "weights: no connection for 61 s (bound 60 s)"

    world, guide, sink, loop = play([Script(5)], policy=Stale(), stop=lambda: True)
    assert (world.resets, world.asked, guide.results, sink.segments) == ([], [], [], [])
    assert loop.stats.waits_for.startswith("weights: no connection"), "what it waited for when it was stopped"


def until(condition, what):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT_S:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def network():
    network = Network(preset("tiny"))
    network.set_normalization(Normalization.fit([np.random.default_rng(0).normal(size=(64, 25)).astype(np.float32)]))
    network.freeze_backbone()
    return network


@pytest.fixture
def weights(tmp_path):
    with WeightsProcess(tmp_path / "weights") as process:
        yield process


@pytest.fixture
def published(weights, network):
    with closing(WeightPublisher(weights.address, connect_deadline_s=TIMEOUT_S)) as publisher:
        publisher.publish(network.parts(), settings={"policy": to_json(network.settings)})
        publisher.wait(TIMEOUT_S)
        yield publisher


class Bounded:
    """Is as stale as the test says."""

    def __init__(self, behind, silent_s):
        self.behind, self.silence = behind, silent_s

    def staleness(self):
        return self.behind, 12.0

    def silent_s(self):
        return self.silence


class Endless(World):
    """Plays episodes of three steps without end, in images of the network's size."""

    def __init__(self):
        super().__init__(1, [])

    def reset(self, slot, configuration):
        self._left.append(Script(3))
        super().reset(slot, configuration)

    def observe(self):
        frame = np.zeros((1, 64, 64, 3), np.uint8)
        return replace(super().observe(), side=frame, wrist=frame)


def test_an_arm_holds_before_its_next_episode_and_goes_on(weights, published, caplog):
    policy = WeightsPolicy(
        weights.address,
        "put the cube on the target",
        explore=0.0,
        seed=0,
        first_timeout_s=TIMEOUT_S,
        bound=StalenessBound(silent_s=0.5),
    )
    with closing(policy):
        guide, stopping = Guide(-1), threading.Event()
        world = Endless()
        loop = EpisodeLoop(world, policy, guide, EpisodeRecorder(tags()), Sink())
        thread = threading.Thread(target=loop.run, args=(stopping.is_set,))
        thread.start()
        try:
            until(lambda: loop.stats.episodes > 2, "episodes")
            weights.kill()
            until(lambda: loop.stats.waits_for, "the loop is held")
            assert loop.stats.waits_for.startswith("weights: no connection for ")
            assert loop.stats.waits_for.endswith(" s (bound 0.5 s)")
            done = loop.stats.episodes
            assert loop.stats.steps == 3 * done, "between two episodes"
            weights.start()
            until(lambda: loop.stats.episodes > done + 2, "episodes after the weights service came back")
            assert loop.stats.waits_for == ""
        finally:
            stopping.set()
            thread.join(TIMEOUT_S)
    assert sum(record.message.startswith("held before") for record in caplog.records) == 1


def test_the_policy_server_tells_its_twin_actors_to_wait(weights, network, tmp_path):
    settings = FleetSettings(
        world=TwinWorld(scene=tmp_path),
        replay=ReplaySettings(urls=("unix:///nowhere",)),
        weights=weights.address,
        run_dir=tmp_path,
        staleness=StalenessBound(silent_s=0.5),
    )
    assert from_json(FleetSettings, to_json(settings)) == settings
    server = PolicyServer(settings, "put the cube on the target")

    def ready():
        return asyncio.run(server.ready())

    assert ready() == "weights: no version yet"
    assert "weights_age_s" not in asyncio.run(server.stats())
    with closing(WeightPublisher(weights.address, connect_deadline_s=TIMEOUT_S)) as publisher:
        publisher.publish(network.parts(), settings={"policy": to_json(network.settings)})
        until(lambda: not ready(), "the first version")
        stats = asyncio.run(server.stats())
        assert (stats["versions_behind"], stats["weights_silent_s"]) == (0, 0.0)
        assert stats["weights_age_s"] < TIMEOUT_S
        weights.kill()
        until(lambda: ready().startswith("weights: no connection"), "the server notices")
        weights.start()
        until(lambda: not ready(), "it is fresh again")
    server._subscriber.close()


@pytest.mark.parametrize(
    ("behind", "silent_s", "reason"),
    [
        (50, 60.0, ""),
        (51, 0.0, "weights: 51 versions behind (bound 50)"),
        (0, 61.2, "weights: no connection for 61 s (bound 60 s)"),
    ],
)
def test_the_bound(behind, silent_s, reason):
    assert StalenessBound().reason_to_hold(Bounded(behind, silent_s)) == reason
