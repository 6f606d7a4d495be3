"""This module tries each heavy library by a small piece of real work; `PROBES` names them."""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import cast

import numpy as np

from protos.schema import U8
from twinrl.doctor.finding import Finding, wanting, well


def mujoco() -> Finding:
    """Steps a falling ball in a batch of two worlds."""
    import mujoco
    from mujoco.batch import Batch

    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body pos='0 0 1'><freejoint/><geom size='.1'/></body></worldbody></mujoco>"
    )
    batch = Batch(model, 2, 1)
    positions = batch.bind("qpos")
    batch.step(nstep=50)
    fallen = 1 - positions[:, 2]
    if not ((fallen > 0.01).all() and fallen[0] == fallen[1]):
        return wanting(f"{mujoco.__version__}, but a ball fell by {fallen} m", "reinstall: pip install 'twinrl[twin]'")
    return well(f"{mujoco.__version__}, steps batches of worlds")


def pycolmap() -> Finding:
    """Loads COLMAP; a reconstruction would take minutes."""
    import pycolmap

    return well(f"{pycolmap.__version__}, {'with' if pycolmap.has_cuda else 'without'} CUDA")


def torch() -> Finding:
    """Computes a matrix product and its gradient."""
    import torch

    x = torch.eye(3, requires_grad=True)
    (x @ x).sum().backward()
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return well(f"{torch.__version__} on {where}, {torch.get_num_threads()} threads")


def ray() -> Finding:
    """Loads RLlib, starts a Ray of our own on this machine and ends it."""
    from actors.sim.ray_session import start_ray

    start_ray("local")  # before Ray is imported
    import ray
    from ray.rllib.core.learner.torch.torch_learner import TorchLearner

    ray.shutdown()
    return well(f"{ray.__version__} starts, RLlib's {TorchLearner.__name__} loads")


def ur_rtde() -> Finding:
    """Loads the compiled parts of ur_rtde."""
    import rtde_control
    import rtde_receive

    return well(f"{version('ur-rtde')}, {rtde_control.__name__} and {rtde_receive.__name__} load")


def valkey() -> Finding:
    """Starts an embedded server and asks for its version."""
    import redis

    from services.replay import EmbeddedServer, ReplaySettings, connect

    with tempfile.TemporaryDirectory(prefix="twinrl-") as folder, EmbeddedServer(Path(folder)) as server:
        about = cast(redis.Redis, connect(ReplaySettings(urls=(server.url,)))).info("server")
        return well(
            f"{about.get('server_name', 'redis')} {about.get('valkey_version') or about['redis_version']} starts"
        )


MEAN, MOST = 1e-4, 5e-3
"""Differences that two rasterizers may have, of full scale."""


def numba() -> Finding:
    """Compiles the kernels, and compares an image with the torch reference where torch is installed."""
    from twin import render

    started = time.perf_counter()
    _differences("numba", "numba")
    ready = f"kernels ready in {time.perf_counter() - started:.1f} s"
    obstacle = render.get("torch").obstacle()
    if obstacle is not None:
        return well(f"{ready}; not compared with the reference ({obstacle})")
    return _judged(
        _differences("numba", "torch"),
        f"{ready}, draws what the torch reference draws",
        "pip install --force-reinstall numba",
    )


def gsplat() -> Finding:
    """Compares an image of the GPU with the CPU's; compiles gsplat's kernels where needed."""
    from twin import render

    obstacle = render.get("gsplat").obstacle()
    if obstacle is not None:
        return wanting(obstacle, "")
    import gsplat
    import torch

    name = f"{gsplat.__version__} with CUDA {torch.version.cuda} on {torch.cuda.get_device_name()}"
    return _judged(_differences("gsplat", "numba"), f"{name}, draws what numba draws", "reinstall gsplat for this CUDA")


def egl() -> Finding:
    """Renders with MuJoCo on a GPU or Mesa, without a display."""
    return _mujoco_draws("egl", "apt install libegl1 libgl1")


def osmesa() -> Finding:
    """Renders with MuJoCo in software."""
    return _mujoco_draws("osmesa", "apt install libosmesa6")


def _differences(ours: str, theirs: str) -> tuple[float, float]:
    """Mean and largest difference of two rasterizers' images of a small cloud."""
    from twin import render
    from twin.camera import look_at
    from twin.splats import Splats

    rng = np.random.default_rng(0)
    splats = Splats.of(
        means=rng.uniform(-0.3, 0.3, (200, 3)),
        quaternions=np.tile([1.0, 0, 0, 0], (200, 1)),
        scales=rng.uniform(0.005, 0.05, (200, 3)),
        opacities=rng.uniform(0.1, 0.95, 200),
        colours=rng.uniform(0, 1, (200, 3)),
        sh=rng.normal(0, 0.1, (200, 15, 3)),
    )
    camera = look_at((-1, 0.2, 0.4), at=(0, 0, 0), fovy_deg=50, px=48)
    first, second = (render.get(name).render(splats, [camera])[0].colour for name in (ours, theirs))
    difference = np.abs(first - second)
    return float(difference.mean()), float(difference.max())


def _judged(difference: tuple[float, float], found: str, advice: str) -> Finding:
    mean, most = difference
    if mean <= MEAN and most <= MOST:
        return well(found)
    return wanting(f"images differ by {mean:.2g} on average, {most:.2g} at most ({MEAN:g}, {MOST:g} allowed)", advice)


def _mujoco_draws(backend: str, advice: str) -> Finding:
    os.environ["MUJOCO_GL"] = backend  # read when mujoco is first imported
    try:
        image = _mujoco_image()
    except (ImportError, AttributeError, RuntimeError) as error:  # of PyOpenGL, which finds no library
        return wanting(f"MuJoCo's renderer does not start ({error})", f"{advice}; the twins do without")
    if int(image.max()) == int(image.min()):
        return wanting("MuJoCo's renderer gives empty images", f"{advice}; the twins do without")
    return well(f"MuJoCo's renderer draws with MUJOCO_GL={backend}")


def _mujoco_image() -> U8:
    """Renders a box under a lamp, (32, 32, 3)."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><light pos='0 0 2'/><geom type='box' size='.2 .2 .2'/></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 32, 32) as renderer:
        renderer.update_scene(data)
        return renderer.render()


PROBES: Mapping[str, Callable[[], Finding]] = {
    probe.__name__: probe for probe in (numba, gsplat, egl, osmesa, mujoco, pycolmap, torch, ray, ur_rtde, valkey)
}
EXTRAS = {
    **dict.fromkeys(("numba", "mujoco"), "twin"),
    **dict.fromkeys(("gsplat", "pycolmap", "cv2", "packaging"), "scan"),
    **dict.fromkeys(("torch", "safetensors"), "policy"),
    **dict.fromkeys(("rtde_control", "rtde_receive"), "robot"),
    "ray": "sim",
}
"""Package -> the extra of this distribution that brings it."""
