"""This room draws images of splats.

    splats, cameras ─► get("numba" | "gsplat" | "torch").render ─► images
    n twins ─► compositor.TwinRenderer (cached background, cheap wrist layer; or exact) ─► side, wrist

`twin.render.compositor` and `twin.render.moving` are doors of their own, because they load MuJoCo and the tasks.

get(name) -> Rasterizer                 one interface: numba on any CPU, gsplat on a CUDA GPU, torch as the reference
available() -> {name: obstacle | None}  which of them run here, and why not
rasterize(splats, camera) -> Image      numba, one image
"""

from importlib import import_module

from protos.errors import InputError
from twin.render.interface import FAR, NEAR_M, Image, Rasterizer
from twin.render.rasterizer import rasterize

__all__ = ["FAR", "NEAR_M", "RASTERIZERS", "Image", "Rasterizer", "available", "get", "rasterize"]

RASTERIZERS = {
    "numba": ("twin.render.rasterizer", "NumbaRasterizer"),
    "gsplat": ("twin.render.gsplat_backend", "GsplatRasterizer"),
    "torch": ("twin.render.reference", "TorchRasterizer"),
}
"""Module and class of every rasterizer by name; importing numba's loads no torch."""


def get(name: str) -> Rasterizer:
    """Returns a rasterizer by name; its `obstacle` tells whether it runs here. Raises `InputError` for another name."""
    if name not in RASTERIZERS:
        raise InputError(f"rasterizer {name!r}: choose one of {', '.join(RASTERIZERS)}")
    module, kind = RASTERIZERS[name]
    return getattr(import_module(module), kind)()


def available() -> dict[str, str | None]:
    """Returns every rasterizer with the reason why it cannot run on this machine, None where it can."""
    return {name: get(name).obstacle() for name in RASTERIZERS}
