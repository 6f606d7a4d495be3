"""Twin actors whose policy looks back: windows over Ray to the policy server, and in evaluation."""

import numpy as np
import pytest
import ray
import torch
from acted_episodes import TEXT, act
from weights_process import WeightsProcess

from actors.policies import StoredPolicy
from actors.sim import EvaluationSettings, FleetSettings, TwinWorld
from actors.sim.evaluation import evaluate
from actors.sim.policy_server import PolicyServer
from actors.sim.ray_session import start_ray
from actors.sim.twin_actor import POLICY_SERVER, RemotePolicy
from policy.checkpoint import load_policy, save_policy
from policy.model import Policy
from policy.octo.settings import OctoSettings
from policy.settings import with_octo
from protos.schema import Schema
from protos.settings import to_json
from services.replay import ReplaySettings
from services.weights import WeightPublisher
from twin.scene import synthetic_scene

DEADLINE_S = 60.0
SCHEMA = Schema(side_px=32, wrist_px=16)
OCTO = OctoSettings(
    side_px=32, wrist_px=16, dim=32, layers=1, heads=2, mlp_dim=32, window=2, max_horizon=4, language_tokens=16
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("policy")
    save_policy(folder, Policy(with_octo(OCTO)))
    return folder


@pytest.fixture
def remote(folder, tmp_path):
    """Provides the twin actors' side of a policy server with the weights of that policy, in a Ray of its own."""
    policy = load_policy(folder)
    with WeightsProcess(tmp_path / "weights") as weights:
        publisher = WeightPublisher(weights.address, wire_dtype="f32", connect_deadline_s=DEADLINE_S)
        publisher.publish(policy.parts(), settings={"policy": to_json(policy.settings)})
        publisher.wait(DEADLINE_S)
        settings = FleetSettings(
            world=TwinWorld(scene=tmp_path, schema=SCHEMA),
            replay=ReplaySettings(urls=("unix:///nowhere",)),
            weights=weights.address,
            run_dir=tmp_path,
        )
        start_ray("local")
        try:
            server = ray.remote(PolicyServer).options(name=POLICY_SERVER).remote(settings, TEXT)
            assert ray.get(server.window.remote(), timeout=DEADLINE_S) == 2
            yield RemotePolicy(0.0, DEADLINE_S)
        finally:
            ray.shutdown()
            publisher.close()


class Kept(list):
    def add(self, segment):
        self.append(segment)


def test_twin_actors_show_the_policy_server_windows(remote, folder):
    """The recorded readouts are those that the policy computes by itself."""
    assert not remote.ready() and remote.window == 2
    there, here = Kept(), Kept()
    act(remote, there, SCHEMA, episodes=3)
    act(StoredPolicy(folder, TEXT, explore=0.0, seed=0), here, SCHEMA, episodes=3)
    assert len(there) == len(here) > 3
    for one, other in zip(there, here, strict=True):
        np.testing.assert_array_equal(one.observation.side, other.observation.side)
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-5)
        assert one.policy_versions == (1, 1)


def test_a_policy_that_looks_back_is_evaluated_in_the_twin(folder, tmp_path):
    synthetic_scene().save(tmp_path / "scene")
    world = TwinWorld(scene=tmp_path / "scene", schema=SCHEMA)
    settings = EvaluationSettings(world=world, policy=folder, out=tmp_path / "out.jsonl", rollouts=1, twins=2)
    assert sorted(result.configuration.region for result in evaluate(settings)) == ["A", "B"]
