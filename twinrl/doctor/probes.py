"""What is tried in a child process: the heavy libraries, each by the least real work. Named in `PROBES`."""

import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import cast

from twinrl.doctor.finding import Finding, wanting, well
from twinrl.doctor.pictures import egl, gsplat, numba, osmesa


def mujoco() -> Finding:
    """A falling ball in a batch of two worlds."""
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
    """Only that it loads: a reconstruction takes minutes."""
    import pycolmap

    return well(f"{pycolmap.__version__}, {'with' if pycolmap.has_cuda else 'without'} CUDA")


def torch() -> Finding:
    """A matrix product, and its gradient."""
    import torch

    x = torch.eye(3, requires_grad=True)
    (x @ x).sum().backward()
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return well(f"{torch.__version__} on {where}, {torch.get_num_threads()} threads")


def ray() -> Finding:
    """That it loads with RLlib; a cluster is not started."""
    import ray
    from ray.rllib.core.learner.torch.torch_learner import TorchLearner

    return well(f"{ray.__version__}, RLlib's {TorchLearner.__name__} loads")


def ur_rtde() -> Finding:
    """That its compiled parts load."""
    import rtde_control
    import rtde_receive

    return well(f"{version('ur-rtde')}, {rtde_control.__name__} and {rtde_receive.__name__} load")


def valkey() -> Finding:
    """A server of our own, started and asked."""
    import redis

    from services.replay.connection import ReplaySettings, connect
    from services.replay.server.server import EmbeddedServer

    with tempfile.TemporaryDirectory(prefix="twinrl-") as folder, EmbeddedServer(Path(folder)) as server:
        about = cast(redis.Redis, connect(ReplaySettings(urls=(server.url,)))).info("server")
        return well(
            f"{about.get('server_name', 'redis')} {about.get('valkey_version') or about['redis_version']} starts"
        )


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
