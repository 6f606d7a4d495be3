"""Whether the renderers draw, and draw the right thing."""

import os
import time

import numpy as np

from protos.schema import U8
from twinrl.doctor.finding import Finding, wanting, well

MEAN, MOST = 1e-4, 5e-3
"""Differences that two rasterizers may have, of full scale."""


def numba() -> Finding:
    """The kernels compiled, and a picture held against the torch reference where that is installed."""
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
    """A picture on the GPU held against the CPU's; compiles gsplat's kernels if they are not yet."""
    from twin import render

    obstacle = render.get("gsplat").obstacle()
    if obstacle is not None:
        return wanting(obstacle, "")
    import gsplat
    import torch

    name = f"{gsplat.__version__} with CUDA {torch.version.cuda} on {torch.cuda.get_device_name()}"
    return _judged(_differences("gsplat", "numba"), f"{name}, draws what numba draws", "reinstall gsplat for this CUDA")


def egl() -> Finding:
    """MuJoCo's own renderer on a GPU or Mesa, without a display."""
    return _mujoco_draws("egl", "apt install libegl1 libgl1")


def osmesa() -> Finding:
    """MuJoCo's own renderer in software."""
    return _mujoco_draws("osmesa", "apt install libosmesa6")


def _differences(ours: str, theirs: str) -> tuple[float, float]:
    """Mean and largest difference of two rasterizers' pictures of a small cloud."""
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
    return wanting(f"pictures differ by {mean:.2g} on average, {most:.2g} at most ({MEAN:g}, {MOST:g} allowed)", advice)


def _mujoco_draws(backend: str, advice: str) -> Finding:
    os.environ["MUJOCO_GL"] = backend  # read when mujoco is first imported
    try:
        picture = _mujoco_picture()
    except (ImportError, AttributeError, RuntimeError) as error:  # of PyOpenGL, which finds no library
        return wanting(f"MuJoCo's renderer does not start ({error})", f"{advice}; the twins do without")
    if int(picture.max()) == int(picture.min()):
        return wanting("MuJoCo's renderer gives empty pictures", f"{advice}; the twins do without")
    return well(f"MuJoCo's renderer draws with MUJOCO_GL={backend}")


def _mujoco_picture() -> U8:
    """A box under a lamp, (32, 32, 3)."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><light pos='0 0 2'/><geom type='box' size='.2 .2 .2'/></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 32, 32) as renderer:
        renderer.update_scene(data)
        return renderer.render()
