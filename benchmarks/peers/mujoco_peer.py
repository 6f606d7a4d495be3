"""This worker steps and draws the twin's own model as a Gymnasium environment would: MuJoCo's renderer (EGL), no
splats.

    python -m peers.mujoco_peer '{"px": 128, "steps": 100, "model": "model.mjb"}'  ──► {"1": 55.0, "2": 30.1}

It prints steps per CPU second of the whole process, since a software GL draws in threads of its own, with one camera
and with two. The bodies are drawn as shapes without shadows.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

ROUNDS = 3
CAMERAS = (1, 2)
Step = Callable[[], None]
PHYSICS_STEPS = 20
VIEWS = ((180.0, -30.0, 1.6), (90.0, -80.0, 0.5))
"""Azimuth and elevation [deg], distance [m]."""
LOOK_AT = (-0.5, 0.0, 0.05)


def make(job: dict[str, Any], cameras: int) -> Step:
    """Makes one world with random set points and `cameras` images per step."""
    model = mujoco.MjModel.from_binary_path(job["model"])
    data = mujoco.MjData(model)
    renderer = mujoco.Renderer(model, job["px"], job["px"])
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    views = [_view(*view) for view in VIEWS[:cameras]]
    rng = np.random.default_rng(0)
    centre = data.ctrl.copy()

    def step() -> None:
        data.ctrl[:] = centre + rng.normal(0, 0.02, model.nu)
        mujoco.mj_step(model, data, PHYSICS_STEPS)
        for view in views:
            renderer.update_scene(data, view)
            renderer.render()

    return step


def _view(azimuth: float, elevation: float, distance: float) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.lookat[:] = LOOK_AT
    camera.azimuth, camera.elevation, camera.distance = azimuth, elevation, distance
    return camera


def main(job: dict[str, Any]) -> None:
    """Writes the median of the rounds for each number of cameras."""
    found = {}
    for cameras in CAMERAS:
        step = make(job, cameras)
        step()
        rates = sorted(_rate(step, job["steps"]) for _ in range(ROUNDS))
        found[str(cameras)] = rates[ROUNDS // 2]
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def _rate(step: Step, steps: int) -> float:
    started = time.process_time()
    for _ in range(steps):
        step()
    return steps / (time.process_time() - started)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
