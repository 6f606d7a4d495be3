"""This package is the digital twin: a splat scene, physics, cameras, tasks with experts, and environments of them.

    photos ─► scan, align, objects ─► scene folder ─► Scene (static splats, cameras, robot) ─┐
    Task (objects, starts, success, expert) ─────────┐                                       ▼
    Domain (latency, gains, friction, appearance) ───┴─► physics ──────────────────────► render
                                                            └────────────┬──────────────────┘
                VectorTwin: n slots, for actors and trials ◄─────────────┼───► ArmWorld: one simulated arm
                GymTwin, GymVectorTwin: for Gymnasium ◄──────────────────┘

Everything is in the robot's base frame. Importing this package loads nothing heavy and never torch; only the
rasterizers "torch" and "gsplat" need torch. The docstring of each room tells its doors:

    scan, align, objects    from photos to a scene folder, its base frame, and movable objects
    splats, surfaces        sets of Gaussians and their files; simple surfaces covered with them
    scene, camera           the scene folder; pinhole cameras
    render                  rasterizers by name, and the renderer of a vector twin
    robots, kinematics      arms and grippers as data, by name; forward and inverse kinematics
    tasks                   tasks by name, and what their experts are made of
    randomize               domains: dynamics and appearance of one world
    physics                 engines by name behind one interface
    env, world, gym         the environments; `env.trials` tells how often an expert succeeds
    expand                  many twin demonstrations from a few
    plugins                 tasks and robots of other packages
"""

import os
import tempfile
from pathlib import Path


def place_for_kernels(package: Path, user: Path) -> Path | None:
    """Returns where numba keeps compiled kernels when neither the package nor the user's cache can be written."""
    there = next(path for path in (user, *user.parents) if path.exists())
    if os.access(package, os.W_OK) or os.access(there, os.W_OK):
        return None
    return Path(tempfile.gettempdir()) / f"twinrl-numba-{os.getuid()}"


_kernels = place_for_kernels(
    Path(__file__).parent, Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()).absolute()
)
if _kernels is not None:  # without a place numba raises; it reads the variable when it is first imported
    os.environ.setdefault("NUMBA_CACHE_DIR", str(_kernels))
