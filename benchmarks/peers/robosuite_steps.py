"""robosuite: its Lift task with a UR5e at 10 Hz, drawn by MuJoCo's renderer, as its users get it from `suite.make`."""

from typing import Any

import numpy as np
import robosuite  # type: ignore[import-not-found]

from .steps import Step, report

CAMERAS = ("agentview", "robot0_eye_in_hand")


def make(job: dict[str, Any], cameras: int) -> Step:
    """One world, random actions, `cameras` pictures per step."""
    environment = robosuite.make(
        "Lift",
        robots="UR5e",
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names=list(CAMERAS[:cameras]),
        camera_heights=job["px"],
        camera_widths=job["px"],
        control_freq=10,
        ignore_done=True,
    )
    environment.reset()
    rng = np.random.default_rng(0)
    low, high = environment.action_spec

    def step() -> None:
        observation, *_ = environment.step(rng.uniform(low, high) * 0.3)
        assert observation[f"{CAMERAS[cameras - 1]}_image"].shape == (job["px"], job["px"], 3)

    return step


if __name__ == "__main__":
    report(make)
