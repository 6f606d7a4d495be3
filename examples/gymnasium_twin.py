"""This example opens a twin as a Gymnasium environment, lets the task's expert act and saves the side camera's image.

python examples/gymnasium_twin.py [SCENE FOLDER]        without a folder in the synthetic scene
"""

import sys

import gymnasium
from PIL import Image

import twin.gym  # noqa: F401  makes the ids known to Gymnasium

scene = sys.argv[1] if len(sys.argv) > 1 else None
env = gymnasium.make("TwinRL/PickAndPlace-v0", scene=scene)
observation, info = env.reset(seed=0, options={"region": "B"})
print({name: values.shape for name, values in observation.items()}, info["configuration"].poses["cube"])

ended, steps = False, 0
while not ended:
    action = env.unwrapped.expert_action()  # or your own: 7 numbers in [-1, 1]
    observation, reward, terminated, truncated, info = env.step(action)
    ended, steps = terminated or truncated, steps + 1
Image.fromarray(env.render()).resize((512, 512)).save("twin.png")
print(f"{'succeeded' if info['success'] else 'failed'} after {steps} steps; twin.png shows the end")
env.close()

envs = gymnasium.make_vec("TwinRL/PickAndPlace-v0", num_envs=8, scene=scene)  # eight twins that step together
envs.reset(seed=0)
_, reward, *_ = envs.step(envs.action_space.sample())
print(f"rewards of {envs.num_envs} twins: {reward}")
envs.close()
