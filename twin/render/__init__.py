"""Pictures of splats.

rasterize(splats, camera) -> Picture        numba, any scene, one picture
compositor.TwinRenderer                     both cameras of n twins: cached background, cheap wrist layer
gsplat_backend.rasterize(splats, cameras)   the same pictures on a CUDA GPU
reference.rasterize(splats, camera)         the same picture in plain torch, slow, for tests
"""

from twin.render.rasterizer import Picture, rasterize

__all__ = ["Picture", "rasterize"]
