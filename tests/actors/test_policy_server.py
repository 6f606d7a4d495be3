"""The policy server gives each twin actor the exploration noise that it asked for, whoever shares its batch."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from fleet_process import tiny_policy
from test_following import Published

from actors.sim import FleetSettings, TwinWorld, policy_server
from actors.sim.policy_server import PolicyServer
from protos.schema import GRIPPER_ACTION
from services.replay import ReplaySettings

ROWS = 3
"""Rows of each of two twin actors."""


@pytest.fixture
def acted(monkeypatch, tmp_path):
    """Provides a function that returns the actions of two actors that share one batch, given their exploration."""
    policy = tiny_policy()
    version = Published(policy, 1)
    subscriber = SimpleNamespace(latest=lambda: version)
    monkeypatch.setattr(policy_server, "WeightSubscriber", lambda *_, **__: subscriber)
    settings = FleetSettings(
        world=TwinWorld(scene=tmp_path, seed=5),
        replay=ReplaySettings(urls=("unix:///nowhere",)),
        weights="127.0.0.1:1",
        run_dir=tmp_path,
    )
    octo, rng = policy.settings.octo, np.random.default_rng(0)
    side = rng.integers(0, 256, (ROWS, octo.side_px, octo.side_px, 3), np.uint8)
    wrist = rng.integers(0, 256, (ROWS, octo.wrist_px, octo.wrist_px, 3), np.uint8)
    proprio = rng.normal(size=(ROWS, 25)).astype(np.float32)

    def act(*explore):
        server = PolicyServer(settings, "put the cube on the target")

        async def together():
            return await asyncio.gather(*(server.act(side, wrist, proprio, one) for one in explore))

        answers = asyncio.run(together())
        assert server._batches == 1, "both actors share the batch"
        return [answer[0] for answer in answers]

    return act


def test_one_actors_noise_is_not_given_to_the_others(acted):
    still, also_still = acted(0.0, 0.0)
    first, second = acted(0.0, 0.2)
    np.testing.assert_array_equal(first, still)
    moved = second != also_still
    assert moved.any(axis=1).all() and not moved[:, GRIPPER_ACTION].any()


def test_the_strength_is_each_actors_own(acted):
    still = np.stack(acted(0.0, 0.0))
    equal = np.stack(acted(0.2, 0.2))
    mixed = np.stack(acted(0.1, 0.2))
    np.testing.assert_array_equal(mixed[1], equal[1])
    inside = (np.abs(equal[0]) < 1).all(axis=1)
    assert inside.any()
    np.testing.assert_allclose((mixed - still)[0][inside], (equal - still)[0][inside] / 2, atol=1e-6)
