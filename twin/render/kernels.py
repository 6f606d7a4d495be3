"""This module has the inner loops of the CPU rasterizer (numba, float32, no GIL).

    splats ─move─► base frame ─project─► footprints ─sort_by_depth─► order ─blend─► canvas ─to_bytes, expose─► image

The mathematics stand in `twin.render.interface`. The blend walks splats front to back and each splat row by row, eight
pixels at a time. Counters of unsaturated pixels per 8 x 8 block skip splats that are hidden entirely.

A footprint row holds: u, v, conic a b c, opacity, r, g, b, reach (exponent at which alpha falls to 1/255), and the
half width and half height of the ellipse at that reach [px].
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from protos.schema import F32, U8
from twin.render import interface
from twin.render.lanes import LANES, composite

f32, u32, u64 = np.float32, np.uint32, np.uint64
JIT = {"fastmath": True, "nogil": True, "cache": True}
NEAR_M = f32(interface.NEAR_M)
BLUR = f32(0.3)
BLOCK = 8
FAR = f32(interface.FAR)
WIDEST = f32(1e12)
"""Variance of the widest footprint [px^2]; beyond, float32 holds no determinant, and a NaN would address any pixel."""
I32 = NDArray[np.int32]
U32 = NDArray[np.uint32]


class Layer(NamedTuple):
    """A layer of splats as the kernels read them."""

    means: F32  # (N, 3)
    covariances: F32  # (N, 6)
    opacities: F32  # (N,)
    colours: F32  # (N, 3)
    sh: F32  # (N, K, 3)


class View(NamedTuple):
    """A camera as the kernels read it."""

    camera_from_base: F32  # (3, 4)
    intrinsics: F32  # (4,) fx fy cx cy


class Workspace(NamedTuple):
    """Buffers for one image at a time; every thread has its own."""

    footprints: F32  # (N, 12)
    depth: F32  # (N,)
    source: I32  # (N,) which splat of its layer a footprint is
    order: I32  # (N,)
    swap: I32  # (N,)
    keys: U32  # (N,)
    swap_keys: U32  # (N,)
    canvas: F32  # (H, 5, W + 8) r g b transmittance limit, with a margin where nothing is drawn
    blocks: I32  # (ceil(H / 8), ceil(W / 8)) unsaturated pixels


@numba.njit(**JIT)
def move(local: Layer, body: I32, positions: F32, rotations: F32, moved: Layer) -> None:
    """Moves splats from their body frames to the base frame: m' = R m + t, C' = R C R^T, by each body's pose."""
    for i in range(local.means.shape[0]):
        R, t = rotations[body[i]], positions[body[i]]
        x, y, z = local.means[i, 0], local.means[i, 1], local.means[i, 2]
        for k in range(3):
            moved.means[i, k] = R[k, 0] * x + R[k, 1] * y + R[k, 2] * z + t[k]
        c = local.covariances[i]
        out = moved.covariances[i]
        n = 0
        for j in range(3):
            a0 = R[j, 0] * c[0] + R[j, 1] * c[1] + R[j, 2] * c[2]
            a1 = R[j, 0] * c[1] + R[j, 1] * c[3] + R[j, 2] * c[4]
            a2 = R[j, 0] * c[2] + R[j, 1] * c[4] + R[j, 2] * c[5]
            for k in range(j, 3):
                out[n] = a0 * R[k, 0] + a1 * R[k, 1] + a2 * R[k, 2]
                n += 1


@numba.njit(**JIT)
def project(layer: Layer, start: int, view: View, width: int, height: int, work: Workspace, count: int) -> int:
    """Appends the visible splats of `layer[start:]` as footprints from row `count` on; returns the new count."""
    V = view.camera_from_base
    fx, fy, cx, cy = view.intrinsics[0], view.intrinsics[1], view.intrinsics[2], view.intrinsics[3]
    W, H = f32(width), f32(height)
    # far outside the image the linearised projection explodes; it is evaluated at most 30 % beyond the border
    ux_low, ux_high = -(cx + f32(0.15) * W) / fx, (W - cx + f32(0.15) * W) / fx
    uy_low, uy_high = -(cy + f32(0.15) * H) / fy, (H - cy + f32(0.15) * H) / fy
    for i in range(start, layer.means.shape[0]):
        opacity = layer.opacities[i]
        X, Y, Z = layer.means[i, 0], layer.means[i, 1], layer.means[i, 2]
        z = V[2, 0] * X + V[2, 1] * Y + V[2, 2] * Z + V[2, 3]
        if z < NEAR_M or opacity <= f32(1 / 255):
            continue
        inverse = f32(1) / z
        ux = (V[0, 0] * X + V[0, 1] * Y + V[0, 2] * Z + V[0, 3]) * inverse
        uy = (V[1, 0] * X + V[1, 1] * Y + V[1, 2] * Z + V[1, 3]) * inverse
        u, v = fx * ux + cx, fy * uy + cy
        c = layer.covariances[i]
        ux, uy = min(max(ux, ux_low), ux_high), min(max(uy, uy_low), uy_high)
        jx, jy = fx * inverse, fy * inverse
        a0, a1, a2 = jx * (V[0, 0] - ux * V[2, 0]), jx * (V[0, 1] - ux * V[2, 1]), jx * (V[0, 2] - ux * V[2, 2])
        b0, b1, b2 = jy * (V[1, 0] - uy * V[2, 0]), jy * (V[1, 1] - uy * V[2, 1]), jy * (V[1, 2] - uy * V[2, 2])
        p0, p1, p2 = (
            c[0] * a0 + c[1] * a1 + c[2] * a2,
            c[1] * a0 + c[3] * a1 + c[4] * a2,
            c[2] * a0 + c[4] * a1 + c[5] * a2,
        )
        q0, q1, q2 = (
            c[0] * b0 + c[1] * b1 + c[2] * b2,
            c[1] * b0 + c[3] * b1 + c[4] * b2,
            c[2] * b0 + c[4] * b1 + c[5] * b2,
        )
        sxx, sxy, syy = (
            a0 * p0 + a1 * p1 + a2 * p2 + BLUR,
            b0 * p0 + b1 * p1 + b2 * p2,
            b0 * q0 + b1 * q1 + b2 * q2 + BLUR,
        )
        determinant = sxx * syy - sxy * sxy
        reach = math.log(f32(255) * opacity)
        half_w, half_h = math.sqrt(f32(2) * reach * sxx), math.sqrt(f32(2) * reach * syy)
        outside = (
            u + half_w < f32(0.5) or u - half_w > W - f32(0.5) or v + half_h < f32(0.5) or v - half_h > H - f32(0.5)
        )
        if determinant <= f32(1e-12) or outside or max(sxx, syy) > WIDEST:
            continue
        row = work.footprints[count]
        scale = f32(1) / determinant
        row[0], row[1], row[2], row[3], row[4], row[5] = u, v, syy * scale, -sxy * scale, sxx * scale, opacity
        row[6], row[7], row[8] = layer.colours[i, 0], layer.colours[i, 1], layer.colours[i, 2]
        row[9], row[10], row[11] = reach, half_w, half_h
        work.depth[count], work.source[count] = z, i
        count += 1
    return count


@numba.njit(**JIT)
def sort_by_depth(work: Workspace, count: int) -> None:
    """Sorts depths into `work.order[:count]`; positive floats sort like their bits, 11 at a time (radix sort)."""
    starts = np.zeros((3, 2048), np.int32)
    bits = work.depth[:count].view(np.uint32)
    for i in range(count):
        key = bits[i]
        work.keys[i], work.order[i] = key, i
        for digit in range(3):
            starts[digit, (key >> (11 * digit)) & 2047] += 1
    for digit in range(3):
        total = 0
        for j in range(2048):
            here = starts[digit, j]
            starts[digit, j] = total
            total += here
    _scatter(starts[0], 0, count, work.keys, work.order, work.swap_keys, work.swap)
    _scatter(starts[1], 11, count, work.swap_keys, work.swap, work.keys, work.order)
    _scatter(starts[2], 22, count, work.keys, work.order, work.swap_keys, work.swap)
    for i in range(count):
        work.order[i] = work.swap[i]


@numba.njit(**JIT)
def _scatter(starts: I32, shift: int, count: int, keys: U32, order: I32, to_keys: U32, to_order: I32) -> None:
    """Does one stable pass: every element goes to the next free place of its digit."""
    for i in range(count):
        digit = (keys[i] >> shift) & 2047
        place = starts[digit]
        starts[digit] = place + 1
        to_order[place], to_keys[place] = order[i], keys[i]


@numba.njit(**JIT)
def clear(work: Workspace, limit: F32 | None = None) -> None:
    """Empties the canvas, on which only what is nearer than `limit` (H, W) will show."""
    canvas, blocks = work.canvas, work.blocks
    height, width = canvas.shape[0], canvas.shape[2] - LANES
    canvas[:, :3] = f32(0)
    canvas[:, 3] = f32(1)
    if limit is None:
        canvas[:, 4, :width] = FAR
    else:
        canvas[:, 4, :width] = limit
    canvas[:, 4, width:] = f32(0)
    for j in range(blocks.shape[0]):
        for i in range(blocks.shape[1]):
            blocks[j, i] = min(BLOCK, height - j * BLOCK) * min(BLOCK, width - i * BLOCK)


@numba.njit(**JIT)
def blend(work: Workspace, count: int, stop: float, depth: F32 | None = None) -> None:
    """Composites the first `count` footprints front to back.

    A pixel is finished when its transmittance falls to `stop`; `depth` (H, W), where given, gets that at which it
    crosses one half. Rows of wide splats are cut to the ellipse; for small ones a root costs more than a few pixels.
    """
    canvas, blocks = work.canvas, work.blocks
    height, width = canvas.shape[0], canvas.shape[2] - LANES
    half_pixel, stop32 = f32(0.5), f32(stop)
    for rank in range(count):
        i = work.order[rank]
        row = work.footprints[i]
        u, v, a, b, c = row[0], row[1], row[2], row[3], row[4]
        x0, x1 = max(0, math.ceil(u - row[10] - half_pixel)), min(width - 1, math.floor(u + row[10] - half_pixel))
        y0, y1 = max(0, math.ceil(v - row[11] - half_pixel)), min(height - 1, math.floor(v + row[11] - half_pixel))
        live = 0
        for j in range(y0 >> 3, (y1 >> 3) + 1):
            for k in range(x0 >> 3, (x1 >> 3) + 1):
                live += blocks[j, k]
        if live == 0:
            continue
        wide, determinant, inverse = x1 - x0 >= 2 * LANES, a * c - b * b, f32(1) / a
        opacity, red, green, blue, z = row[5], row[6], row[7], row[8], work.depth[i]
        left, right = f32(x0), f32(x1 + 1)
        for y in range(u64(y0), u64(y1 + 1)):
            dy = f32(np.int32(y)) + half_pixel - v
            first, end = left, right
            if wide:
                half = math.sqrt(max(f32(2) * a * row[9] - dy * dy * determinant, f32(0))) * inverse
                middle = u - b * dy * inverse - half_pixel
                first, end = min(max(np.ceil(middle - half), left), right), min(np.floor(middle + half) + f32(1), right)
            dx, square, slope, level = first + half_pixel - u, f32(-0.5) * a, -b * dy, f32(-0.5) * c * dy * dy
            for x in range(u64(first), u64(max(end, f32(0))), u64(LANES)):
                events = composite(canvas, y, x, dx, square, slope, level, opacity, z, red, green, blue, stop32)
                dx += f32(LANES)
                for lane in range(u64(LANES)):
                    if events == 0:
                        break
                    if events & 1:
                        blocks[y >> u64(3), (x + lane) >> u64(3)] -= 1
                    if depth is not None and events & 256:
                        depth[y, x + lane] = z
                    events >>= 1


@numba.njit(**JIT)
def to_bytes(canvas: F32, background: F32, image: U8) -> None:
    """Writes the canvas over `background` (H, W, 3), rounded to 0..255."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            through = canvas[y, 3, x]
            for k in range(3):
                value = (canvas[y, k, x] + through * background[y, x, k]) * f32(255) + f32(0.5)
                image[y, x, k] = np.uint8(min(max(value, f32(0)), f32(255)))


def eye_of(view: View) -> F32:
    """Returns the camera centre (3,) in the base frame."""
    return -view.camera_from_base[:, :3].T @ view.camera_from_base[:, 3]


def eyes_of(view: View, positions: F32, rotations: F32) -> F32:
    """Returns the camera centre in the frame of each body: (bodies, 3) from (bodies, 3) and (bodies, 3, 3)."""
    return np.einsum("bji,bj->bi", rotations, eye_of(view) - positions).astype(np.float32)


@numba.njit(**JIT)
def shade(local: Layer, body: I32, eyes: F32, work: Workspace, first: int, count: int) -> None:
    """Adds the harmonics to the colours of footprints `first` to `count`, which are splats of `local`.

    A splat that moves keeps its coefficients; the camera is moved into the frame of its body instead, which costs one
    subtraction per splat where turning the coefficients would cost 83 multiplications per channel.

    `local` holds the splats in the frames of their bodies, `body` (N,) whose each is, `eyes` (bodies, 3) the camera
    centre in each body's frame.
    """
    coefficients = local.sh.shape[1]
    values = np.empty(15, np.float32)
    for place in range(first, count):
        i = work.source[place]
        eye = eyes[body[i]]
        x, y, z = local.means[i, 0] - eye[0], local.means[i, 1] - eye[1], local.means[i, 2] - eye[2]
        inverse = f32(1) / math.sqrt(x * x + y * y + z * z)
        _basis(x * inverse, y * inverse, z * inverse, coefficients, values)
        red, green, blue = local.colours[i, 0], local.colours[i, 1], local.colours[i, 2]
        for k in range(coefficients):
            red += values[k] * local.sh[i, k, 0]
            green += values[k] * local.sh[i, k, 1]
            blue += values[k] * local.sh[i, k, 2]
        row = work.footprints[place]
        row[6], row[7], row[8] = max(red, f32(0)), max(green, f32(0)), max(blue, f32(0))


@numba.njit(**JIT)
def _basis(x: float, y: float, z: float, coefficients: int, values: F32) -> None:
    """Evaluates `twin.splats.cloud.basis` of a unit vector, as many as there are coefficients."""
    values[0], values[1], values[2] = f32(-0.48860251) * y, f32(0.48860251) * z, f32(-0.48860251) * x
    if coefficients == 3:
        return
    zz, cosine, sine = z * z, x * x - y * y, f32(2) * x * y
    values[3], values[7] = f32(0.54627422) * sine, f32(0.54627422) * cosine
    values[4], values[6] = f32(-1.09254843) * y * z, f32(-1.09254843) * x * z
    values[5] = f32(0.94617470) * zz - f32(0.31539157)
    if coefficients == 8:
        return
    values[8], values[14] = f32(-0.59004359) * (x * sine + y * cosine), f32(-0.59004359) * (x * cosine - y * sine)
    values[9], values[13] = f32(1.44530572) * z * sine, f32(1.44530572) * z * cosine
    mixed = f32(0.45704579) - f32(2.28522900) * zz
    values[10], values[12] = mixed * y, mixed * x
    values[11] = z * (f32(1.86588166) * zz - f32(1.11952900))


_MEAN, _DEVIATION = f32(510.0), f32(147.802)
"""Mean and deviation of the sum of four uniform bytes, which is close to normal."""
_GOLDEN = 0x9E3779B9


@numba.njit(**JIT)
def expose(canvas: F32, background: F32, gains: F32, noise: float, seed: int, image: U8) -> None:
    """Writes the canvas over `background` (H, W, 3) times `gains` (3,), with normal noise of `noise` of full scale.

    Every pixel and channel has a number of its own, a hash of the seed and its place, so equal seeds give equal noise.
    """
    strength, width = f32(noise) / _DEVIATION, image.shape[1]
    row = np.empty(3 * width, np.float32)
    for y in range(image.shape[0]):
        _noise(row, u32((seed + _GOLDEN * 3 * y * width) & 0xFFFFFFFF), strength)
        for x in range(width):
            through = canvas[y, 3, x]
            for k in range(3):
                value = (canvas[y, k, x] + through * background[y, x, k]) * gains[k]
                value = (value + row[3 * x + k]) * f32(255) + f32(0.5)
                image[y, x, k] = np.uint8(min(max(value, f32(0)), f32(255)))


@numba.njit(**JIT)
def _noise(row: F32, start: int, strength: float) -> None:
    """Fills a row with noise; 32 well-mixed bits (lowbias32 of C. Wellons' hash prospector) make each number.

    The steps are kept in 32 bits, so that they are done on many numbers at once.
    """
    for i in range(row.shape[0]):
        word = u32(start + u32(u32(_GOLDEN) * u32(i)))
        word = u32(u32(word ^ (word >> u32(16))) * u32(0x7FEB352D))
        word = u32(u32(word ^ (word >> u32(15))) * u32(0x846CA68B))
        word = u32(word ^ (word >> u32(16)))
        low = u32((word & u32(255)) + ((word >> u32(8)) & u32(255)))
        total = u32(low + u32(((word >> u32(16)) & u32(255)) + (word >> u32(24))))
        row[i] = strength * (f32(np.int32(total)) - _MEAN)
