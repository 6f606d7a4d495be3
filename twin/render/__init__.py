"""Images of splats.

    splats, cameras ─► get("numba" | "gsplat" | "torch").render ─► images
    n twins ─► compositor.TwinRenderer (cached background, cheap wrist layer; or exact) ─► side, wrist

get(name) -> Rasterizer                 one interface: numba on any CPU, gsplat on a CUDA GPU, torch as the reference
available() -> {name: obstacle | None}  which of them run here, and why not
rasterize(splats, camera) -> Image    numba, one image
"""

from importlib import import_module

from protos.errors import InputError
from twin.render.interface import Image, Rasterizer
from twin.render.rasterizer import rasterize

__all__ = ["RASTERIZERS", "Image", "Rasterizer", "available", "get", "rasterize"]

RASTERIZERS = {
    "numba": ("twin.render.rasterizer", "NumbaRasterizer"),
    "gsplat": ("twin.render.gsplat_backend", "GsplatRasterizer"),
    "torch": ("twin.render.reference", "TorchRasterizer"),
}
"""Name -> module and class; importing numba's loads no torch."""


def get(name: str) -> Rasterizer:
    """A rasterizer by name. Raises `InputError` for a name that is none; whether it runs here its `obstacle` says."""
    if name not in RASTERIZERS:
        raise InputError(f"rasterizer {name!r}: choose one of {', '.join(RASTERIZERS)}")
    module, kind = RASTERIZERS[name]
    return getattr(import_module(module), kind)()


def available() -> dict[str, str | None]:
    """Every rasterizer and the reason why it cannot run on this machine, None where it can."""
    return {name: get(name).obstacle() for name in RASTERIZERS}
