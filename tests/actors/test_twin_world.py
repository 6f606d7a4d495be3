"""The twin that settings describe."""

import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from actors.sim import TwinWorld
from actors.sim.twins import make_twin
from protos.schema import TCP_POSITION, Schema
from twin.randomize import Domain
from twin.scene import synthetic_scene

UP = np.array([[0, 0, 1, 0, 0, 0, 1]], np.float32)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    synthetic_scene(0.03).save(folder)
    return folder


@pytest.mark.parametrize("steps", [0, 4])
def test_a_twin_has_the_domain_of_the_settings(scene, steps):
    world = TwinWorld(scene=scene, schema=Schema(side_px=16, wrist_px=16), domain=Domain(latency_steps=(steps,)))
    with closing(make_twin(world, n=1, seed=0)) as twin:
        twin.reset(0, twin.task.space.sample(np.random.default_rng(0)))
        heights = [twin.observe().proprio[0, TCP_POSITION][2]]
        for _ in range(6):
            twin.step(UP)
            heights.append(twin.observe().proprio[0, TCP_POSITION][2])
    assert np.flatnonzero(np.diff(heights) > 0.005)[0] == steps, "control steps until it first rises"


def test_a_twin_actor_steps_without_torch_and_ray(scene):
    program = f"""
import sys
sys.modules["torch"] = sys.modules["ray"] = None  # importing either fails
import numpy as np
import actors.sim.twin_actor
from actors.sim import TwinWorld
from actors.sim.twins import make_twin
from pathlib import Path
from protos.schema import Schema
twin = make_twin(TwinWorld(scene=Path({str(scene)!r}), schema=Schema(side_px=16, wrist_px=16)), n=1)
twin.observe()
twin.step(np.zeros((1, 7), np.float32))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
