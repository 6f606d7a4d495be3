"""This module makes the textures of the bundled capture: wood, limewash, printed cardboard, rich in features."""

import cv2
import numpy as np
from PIL import Image, ImageDraw

from protos.schema import F32, F64


def clouds(rng: np.random.Generator, height: int, width: int, *, coarse: int, octaves: int, fall: float = 0.6) -> F64:
    """Makes smooth noise (height, width) within ±1: octaves of random grids, the first with `coarse` cells across."""
    total = np.zeros((height, width))
    for octave in range(octaves):
        cells = coarse * 2**octave
        grid = rng.standard_normal((max(2, cells * height // width), cells)).astype(np.float32)
        total += fall**octave * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return total / np.abs(total).max()


def wood(rng: np.random.Generator, height: int, width: int) -> F32:
    """Makes a table top of planks with grain along the rows' axis, pores, knots and stains (height, width, 3)."""
    v, u = np.mgrid[0:height, 0:width] / width
    warp = clouds(rng, height, width, coarse=4, octaves=4)
    grain = cv2.resize(clouds(rng, height // 10, width, coarse=80, octaves=4, fall=0.9), (width, height))
    speckle = clouds(rng, height, width, coarse=100, octaves=3, fall=0.9)
    stains = clouds(rng, height, width, coarse=10, octaves=5, fall=0.8)
    plank = np.minimum((u * 9).astype(int), 8)
    light = rng.uniform(0.58, 0.78, 9)[plank] + 0.17 * grain + 0.11 * speckle + 0.28 * stains
    light += 0.05 * np.sin(2 * np.pi * (40 * u + 3 * warp + 0.6 * v))
    for x, y, size in rng.uniform((0, 0, 0.002), (1, height / width, 0.011), (160, 3)):
        distance = np.hypot(u - x, 0.6 * (v - y)) / size
        light -= 0.38 * np.exp(-(distance**4)) + 0.10 * np.exp(-((distance - 2) ** 2) * 4)
    light[np.abs(u * 9 - np.rint(u * 9)) < 0.012] *= 0.55
    tint = rng.normal(0, 0.03, (9, 3))[plank] + stains[..., None] * np.array([0.02, 0.06, 0.12])
    return np.clip(light[..., None] * (np.array([0.90, 0.68, 0.45]) + tint), 0.03, 1).astype(np.float32)


def cardboard(rng: np.random.Generator, colour: tuple[float, float, float], px: int) -> F32:
    """Makes a mottled face with printed shapes and letters (px, px, 3)."""
    base = np.array(colour) * (1 + 0.35 * clouds(rng, px, px, coarse=4, octaves=5)[..., None])
    page = Image.fromarray((np.clip(base, 0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(page)
    for _ in range(7):
        x, y, w, h = rng.uniform((0, 0, 0.06, 0.06), (0.85, 0.85, 0.3, 0.25)) * px
        fill = tuple(int(c) for c in rng.uniform(30, 225, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + w, y + h), fill=fill)
    word = "".join(rng.choice(list("TWINRLSCAN"), 5))
    draw.text((0.1 * px, 0.4 * px), word, fill=(250, 245, 235), font_size=0.22 * px)
    return (np.asarray(page) / 255).astype(np.float32)


def wall(rng: np.random.Generator, height: int, width: int) -> F32:
    """Makes limewash with posters (height, width, 3)."""
    wash = 0.66 + 0.36 * clouds(rng, height, width, coarse=16, octaves=4, fall=0.75)[..., None]
    hue = clouds(rng, height, width, coarse=5, octaves=3)[..., None] * np.array([0.12, 0.0, -0.12])
    page = (wash * np.array([0.98, 0.93, 0.82]) + hue).astype(np.float32)
    for column in range(7):
        px = int(rng.uniform(0.10, 0.15) * width)
        y, x = int(rng.uniform(0.05, 0.9) * (height - px)), int((column + rng.uniform(0.05, 0.2)) * width / 7)
        w = min(px, width - x)
        page[y : y + px, x : x + w] = cardboard(rng, tuple(rng.uniform(0.25, 0.85, 3)), px)[:, :w]
    return np.clip(page, 0.03, 1).astype(np.float32)
