"""MuJoCo as a Gymnasium environment steps and draws it: one model, its own renderer (EGL), no splats.

The model is the twin's own: the same physics steps, the same bodies, drawn as shapes without shadows.
"""

from typing import Any

import mujoco
import numpy as np

from .steps import Step, report

PHYSICS_STEPS = 20
VIEWS = ((180.0, -30.0, 1.6), (90.0, -80.0, 0.5))
"""Azimuth and elevation [deg], distance [m]."""
LOOK_AT = (-0.5, 0.0, 0.05)


def make(job: dict[str, Any], cameras: int) -> Step:
    """One world, random set points, `cameras` pictures per step."""
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


if __name__ == "__main__":
    report(make)
