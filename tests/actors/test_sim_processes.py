"""The twin side with its real processes: Ray, Valkey, the weights service; and what `kill -9` does to them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import pytest
from weights_process import WeightsProcess

from actors.sim.demonstrate import demonstrate
from actors.sim.evaluate import evaluate
from actors.sim.settings import DemonstrationSettings, EvaluationSettings, FleetSettings, TwinWorld
from policy.checkpoint import save_policy
from policy.model import Policy
from policy.normalize import Normalization
from policy.presets import preset
from protos.schema import Outcome, Source
from protos.settings import save_settings, to_json
from protos.status import STATUS_VARIABLE, read_status
from services.replay import EmbeddedServer, ReplayReader, ReplaySettings, totals
from services.staleness import StalenessBound
from services.weights import WeightPublisher
from twin.scene import synthetic_scene

RECOVERY_S = 40.0
SILENT_S = 8.0


@pytest.fixture(scope="module")
def policy() -> Policy:
    policy = Policy(preset("tiny"))
    policy.set_normalization(Normalization.fit([np.random.default_rng(0).normal(size=(64, 19)).astype(np.float32)]))
    policy.freeze_backbone()
    return policy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TwinWorld:
    folder = tmp_path_factory.mktemp("scene")
    synthetic_scene().save(folder)
    return TwinWorld(scene=folder)


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplaySettings]:
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as server:
        yield ReplaySettings(urls=(server.url,))


def wait_until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within_s:g} s"
        time.sleep(0.1)


def test_demonstrations_reach_replay_whole(world, replay):
    settings = DemonstrationSettings(world=world, replay=replay, episodes={"A": 2, "B": 1}, twins=3)
    assert demonstrate(settings) == 3
    reader = ReplayReader(
        replay, world.schema, buffers=("demo",), gamma=0.97, n_step=3, capacity={"demo": 1000}, keep_frames=("demo",)
    )
    reader.poll()
    episodes = reader.episodes("demo")
    reader.close()
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
def fleet(world, replay, weights, policy, tmp_path) -> Iterator["subprocess.Popen[bytes]"]:
    publisher = WeightPublisher(weights.address, wire_dtype="f32")
    publisher.publish(policy.parts(), settings={"policy": to_json(policy.settings)})
    settings = FleetSettings(
        world=world,
        replay=replay,
        weights=weights.address,
        staleness=StalenessBound(silent_s=SILENT_S),
        run_dir=tmp_path,
        actors=2,
        twins_per_actor=2,
    )
    path = save_settings(settings, tmp_path / "fleet.json")
    log = (tmp_path / "fleet.log").open("wb")
    command = [sys.executable, "-m", "actors.sim", "fleet", "--settings", str(path)]
    environment = os.environ | {STATUS_VARIABLE: str(tmp_path / "fleet.status.json")}
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment)
    yield process
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    finally:
        for left in [process, *family]:
            if psutil.pid_exists(left.pid):
                os.kill(left.pid, signal.SIGKILL)
        publisher.close()
        log.close()


def workers(fleet: "subprocess.Popen[bytes]", name: str) -> list[int]:
    """Process ids of this fleet's Ray workers with an actor of that name, by the title that Ray gives them."""
    found = []
    for process in psutil.Process(fleet.pid).children(recursive=True):
        try:
            if f"ray::{name}" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_a_fleet_goes_on_when_any_of_its_processes_is_killed(fleet, weights, replay, tmp_path):
    def steps() -> int:
        return totals(replay)["twin"]

    def waits_for() -> str:
        status = read_status(tmp_path / "fleet.status.json")
        return "" if status is None else status.waiting_for

    wait_until(lambda: steps() > 0 or fleet.poll() is not None, 90, "first transitions")
    assert fleet.poll() is None
    for victim in ("TwinActor", "PolicyServer"):
        alive = workers(fleet, victim)
        os.kill(alive[0], signal.SIGKILL)
        before = steps()
        wait_until(lambda start=before: steps() > start + 64, RECOVERY_S, f"transitions after kill -9 of {victim}")

        def is_back(name: str = victim, killed: int = alive[0], count: int = len(alive)) -> bool:
            now = workers(fleet, name)
            return killed not in now and len(now) == count

        wait_until(is_back, RECOVERY_S, f"{victim} is back")
    weights.kill()
    before = steps()
    wait_until(lambda: steps() > before + 64, RECOVERY_S, "transitions while the weights service is away")
    wait_until(lambda: "weights: no connection" in waits_for(), SILENT_S + 2 * RECOVERY_S, "the twins hold")
    rates = read_status(tmp_path / "fleet.status.json").rates
    assert rates["weights_silent_s"] > SILENT_S
    assert (rates["version"], rates["versions_behind"]) == (1, 0)
    weights.start()
    wait_until(lambda: not waits_for(), RECOVERY_S, "the twins go on")
    before = steps()
    wait_until(lambda: steps() > before + 64, RECOVERY_S, "transitions after the weights service came back")
