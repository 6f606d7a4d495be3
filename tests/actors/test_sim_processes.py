"""The twin side with its real processes: Ray, Valkey, the weights service; and what `kill -9` does to them."""

import os
import signal
from collections.abc import Iterator

import pytest
from fleet_process import SILENT_S, FleetProcess, running_fleet, tiny_policy, wait_until
from weights_process import WeightsProcess

from actors.sim import DemonstrationSettings, EvaluationSettings, TwinWorld
from actors.sim.demonstrations import demonstrate
from actors.sim.evaluation import evaluate
from policy.checkpoint import save_policy
from policy.model import Policy
from protos.schema import Outcome, Source
from services.replay import EmbeddedServer, ReplaySettings, read_episodes, totals
from twin.scene import synthetic_scene

RECOVERY_S = 40.0


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TwinWorld:
    folder = tmp_path_factory.mktemp("scene")
    synthetic_scene().save(folder)
    return TwinWorld(scene=folder)


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplaySettings]:
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as server:
        yield ReplaySettings(urls=(server.url,))


def test_demonstrations_reach_replay_whole(world, replay):
    settings = DemonstrationSettings(world=world, replay=replay, episodes={"A": 2, "B": 1}, twins=3)
    assert demonstrate(settings) == 3
    episodes = list(read_episodes(replay, world.schema, ("demo",)))
    assert sorted(episode.configuration.region for episode in episodes) == ["A", "A", "B"]
    for episode in episodes:
        assert episode.outcome is Outcome.SUCCESS
        assert episode.source is Source.TWIN
        assert episode.human.all()
        assert episode.reward.sum() == 1.0
        assert len(episode.observation) == len(episode.action) + 1


def test_evaluation_visits_every_cell(world, policy, tmp_path):
    save_policy(tmp_path / "policy", policy)
    settings = EvaluationSettings(world=world, policy=tmp_path / "policy", out=tmp_path / "out.jsonl", rollouts=20)
    results = evaluate(settings)
    assert sorted(result.configuration.cell for result in results) == list(range(40))
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 40


@pytest.fixture
def weights(tmp_path) -> Iterator[WeightsProcess]:
    with WeightsProcess(tmp_path / "weights") as process:
        yield process


@pytest.fixture
def fleet(world, replay, weights, tmp_path) -> Iterator[FleetProcess]:
    with running_fleet(world, replay, weights, tmp_path) as fleet:
        yield fleet


def test_a_fleet_goes_on_when_any_of_its_processes_is_killed(fleet, weights, replay, tmp_path):
    def steps() -> int:
        return totals(replay)["twin"]

    wait_until(lambda: steps() > 0 or fleet.process.poll() is not None, 90, "first transitions")
    assert fleet.process.poll() is None
    for victim in ("TwinActor", "PolicyServer"):
        alive = fleet.workers(victim)
        os.kill(alive[0], signal.SIGKILL)
        before = steps()
        wait_until(lambda start=before: steps() > start + 64, RECOVERY_S, f"transitions after kill -9 of {victim}")

        def is_back(name: str = victim, killed: int = alive[0], count: int = len(alive)) -> bool:
            now = fleet.workers(name)
            return killed not in now and len(now) == count

        wait_until(is_back, RECOVERY_S, f"{victim} is back")
    weights.kill()
    before = steps()
    wait_until(lambda: steps() > before + 64, RECOVERY_S, "transitions while the weights service is away")
    wait_until(lambda: "weights: no connection" in fleet.waits_for, SILENT_S + 2 * RECOVERY_S, "the twins hold")
    rates = fleet.status.rates
    assert rates["weights_silent_s"] > SILENT_S
    assert (rates["version"], rates["versions_behind"]) == (1, 0)
    weights.start()
    wait_until(lambda: not fleet.waits_for, RECOVERY_S, "the twins go on")
    before = steps()
    wait_until(lambda: steps() > before + 64, RECOVERY_S, "transitions after the weights service came back")
