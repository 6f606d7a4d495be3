"""This module measures MuJoCo's own renderer beside the twin: a control step at 10 Hz and its images, per CPU second.

MuJoCo draws shapes, the twin the scanned workspace. Where the renderer cannot run, its row says why.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import mujoco

from benchmarks.measure import table
from benchmarks.twin.stages import measure
from protos.errors import TwinRLError
from twin import tasks
from twin.physics import make
from twin.randomize import DOMAINS
from twin.scene import Scene

TIMEOUT_S = 900.0
TWINS = 8


def peer_table(scene: Scene, task: str, *, px: int, steps: int) -> str:
    """Returns a row per system."""
    ours = measure(scene, task, twins=TWINS, px=px, steps=max(10, steps // TWINS))
    rows = [
        (
            f"TwinRL, {TWINS} twins in a process",
            f"{ours.steps_per_s(without='wrist image'):,.0f}",
            f"{ours.steps_per_s():,.0f}",
            "splats",
        )
    ]
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model.mjb"
        mujoco.mj_saveModel(make("mujoco", scene.robot, tasks.get(task), DOMAINS["twin"], n=1).model, str(model), None)
        job = {"px": px, "steps": steps, "model": str(model)}
        rows.append(("the same model in MuJoCo, its own renderer", *_rates(job)))
    return table(("system", "one camera [steps/CPU s]", "two cameras [steps/CPU s]", "images"), rows)


def _rates(job: Mapping[str, object]) -> tuple[str, str, str]:
    """Returns steps per CPU second with one camera and with two, and what is drawn, or why there is nothing."""
    folder = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": folder, "MUJOCO_GL": "egl", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "peers.mujoco_peer", json.dumps(job)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment)
        if done.returncode:
            raise TwinRLError((done.stderr.strip().splitlines() or ["no last words"])[-1])
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (TwinRLError, subprocess.TimeoutExpired) as error:
        return "-", "-", f"does not run here: {error}"
    return f"{found['1']:,.0f}", f"{found['2']:,.0f}", "shapes and meshes"
