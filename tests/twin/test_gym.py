import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from protos.schema import Schema
from twin.gym import GymTwin


@pytest.fixture
def env(scene, task):
    env = GymTwin(scene, task, schema=Schema(side_px=16, wrist_px=16))
    yield env
    env.close()


def test_gymnasium_accepts_the_environment(env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*observation space (minimum|maximum) value is.*infinity.*")
        check_env(env, skip_render_check=True)
    assert env.render().shape == (16, 16, 3)


def test_the_expert_earns_its_reward(env):
    _, info = env.reset(seed=3, options={"region": "B"})
    assert info["configuration"].region == "B"
    for _ in range(60):
        observation, reward, terminated, truncated, info = env.step(env.expert_action())
        if terminated or truncated:
            break
    assert terminated and info["success"] and reward == 1.0
    assert observation["proprio"].shape == (25,)


def test_a_given_configuration_is_used(env, configurations):
    configuration = configurations("A", 1)[0]
    observation, info = env.reset(options={"configuration": configuration})
    assert info["configuration"] is configuration
    np.testing.assert_allclose(observation["proprio"][:3], configuration.poses["tool"][:3], atol=1e-4)
