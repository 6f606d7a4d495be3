import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from protos.errors import InputError
from protos.schema import Schema
from twin import tasks
from twin.gym import GymTwin, GymVectorTwin, id_of

SMALL = Schema(side_px=16, wrist_px=16)
PICK = "TwinRL/PickAndPlace-v0"


@pytest.fixture
def env(scene, task):
    env = GymTwin(scene, task, schema=SMALL)
    yield env
    env.close()


@pytest.fixture
def envs(scene):
    envs = gymnasium.make_vec(PICK, num_envs=3, vectorization_mode="vector_entry_point", scene=scene, schema=SMALL)
    yield envs
    envs.close()


@pytest.mark.parametrize("name", tasks.names())
def test_gymnasium_makes_every_task_and_accepts_it(name, scene):
    made = gymnasium.make(id_of(name), scene=scene, schema=SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*observation space (minimum|maximum) value is.*infinity.*")
        check_env(made.unwrapped)
    made.reset(seed=0)
    assert made.render().shape == (16, 16, 3)
    assert made.unwrapped.spec.id == id_of(name)
    made.close()


def test_without_a_scene_it_is_the_synthetic_one_and_a_folder_is_read(scene, tmp_path):
    one = gymnasium.make("twin.gym:" + PICK, schema=SMALL)
    scene.save(tmp_path)
    other = gymnasium.make(PICK, scene=str(tmp_path), domain="standin", schema=SMALL)
    seen = [made.reset(seed=0)[0]["side"] for made in (one, other)]
    assert all(image.std() > 5 for image in seen)
    one.close()
    other.close()


def test_an_unknown_domain_is_refused_with_the_choices(scene):
    with pytest.raises(InputError, match="domain 'mars': choose one of twin"):
        gymnasium.make(PICK, scene=scene, domain="mars")


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


def test_twins_step_together_in_one_vector_environment(envs):
    assert isinstance(envs.unwrapped, GymVectorTwin)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observation, info = envs.reset(seed=0, options={"region": "B"})
    assert observation in envs.observation_space
    assert [start.region for start in info["configuration"]] == ["B"] * 3 and info["_configuration"].all()
    observation, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
    assert observation in envs.observation_space
    assert reward.shape == terminated.shape == truncated.shape == (3,)
    assert len(envs.render()) == 3
    first = envs.reset(seed=7)[0]
    again = envs.reset(seed=7)[0]
    other = envs.reset(seed=[7, 8, 9])[0]
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["proprio"], other["proprio"])


def test_a_slot_that_ended_starts_anew_in_the_next_step_while_the_others_go_on(envs):
    envs.reset(seed=0)
    ended = np.zeros(3, bool)
    ends = np.zeros(3, int)
    for _ in range(150):
        observation, reward, terminated, truncated, info = envs.step(envs.unwrapped.expert_action())
        begun = info.get("_configuration", np.zeros(3, bool))
        np.testing.assert_array_equal(begun, ended)
        assert not (reward[begun].any() or terminated[begun].any() or truncated[begun].any())
        for slot in np.flatnonzero(begun):
            tool = info["configuration"][slot].poses["tool"]
            np.testing.assert_allclose(observation["proprio"][slot, :3], tool[:3], atol=1e-4)
        ended = terminated | truncated
        np.testing.assert_array_equal(terminated, info["success"])
        np.testing.assert_array_equal(reward, terminated.astype(float))
        ends += ended
    assert (ends >= 2).all()


def test_a_vector_of_one_is_the_single_twin(scene, configurations):
    start, actions = configurations("A", 1)[0], np.random.default_rng(0).uniform(-1, 1, (5, 7)).astype(np.float32)
    one, many = GymTwin(scene, schema=SMALL), GymVectorTwin(1, scene, schema=SMALL)
    one.reset(seed=1, options={"configuration": start})
    many.reset(seed=1, options={"configuration": start})
    for action in actions:
        single, batch = one.step(action)[0], many.step(action[None])[0]
        assert all(np.array_equal(single[name], batch[name][0]) for name in single)
    one.close()
    many.close()
