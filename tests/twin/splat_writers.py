"""This module writes the packed splat files that the twin only reads; plain and slow, bit by bit."""

import gzip
import math
import struct

import numpy as np

from twin.splats import SH_DEGREE_0, Splats

AXES = "xyz"


def spz_bytes(splats: Splats, *, version: int = 3, fraction_bits: int = 12) -> bytes:
    """Returns Niantic's SPZ as its readme lays it out."""
    blocks = [[], [], [], [], [], []]
    for i in range(len(splats)):
        for value in splats.means[i]:
            blocks[0] += (round(float(value) * 2**fraction_bits) & 0xFFFFFF).to_bytes(3, "little")
        blocks[1].append(_byte(splats.opacities[i] * 255))
        blocks[2] += [_byte(255 * (0.5 + 0.15 * (c - 0.5) / SH_DEGREE_0)) for c in splats.colours[i]]
        blocks[3] += [_byte((math.log(s) + 10) * 16) for s in splats.scales[i]]
        blocks[4] += _rotation(splats.quaternions[i], version)
        blocks[5] += [_byte(value * 128 + 128) for value in splats.sh[i].ravel()]
    head = struct.pack("<4sIIBBBB", b"NGSP", version, len(splats), splats.degree, fraction_bits, 0, 0)
    return gzip.compress(head + b"".join(bytes(block) for block in blocks))


def compressed_ply_bytes(splats: Splats, *, colour_bounds: bool = True) -> bytes:
    """Returns PlayCanvas' compressed PLY: chunks of 256 in the order given."""
    colours = splats.colours if colour_bounds else np.clip(splats.colours, 0, 1)
    chunks, vertices = [], []
    for first in range(0, len(splats), 256):
        part = slice(first, first + 256)
        values = [splats.means[part], np.log(splats.scales[part].astype(float)), colours[part]]
        bounds = [(v.min(0), v.max(0)) for v in values]
        if not colour_bounds:
            bounds[2] = (np.zeros(3), np.ones(3))
        chunks += [number for pair in bounds[: 3 if colour_bounds else 2] for end in pair for number in end]
        for i in range(len(values[0])):
            fractions = [
                [(v - low) / (high - low) if high > low else 0.0 for v, low, high in zip(vs[i], *pair, strict=True)]
                for vs, pair in zip(values, bounds, strict=True)
            ]
            rgba = [*fractions[2], float(splats.opacities[first + i])]
            vertices.append(_packed(fractions[0], (11, 10, 11)))
            vertices.append(_rotation_word(splats.quaternions[first + i]))
            vertices += [_packed(fractions[1], (11, 10, 11)), _packed(rgba, (8, 8, 8, 8))]
    kinds = ["", "scale_"] + ([None] if colour_bounds else [])
    names = [
        f"{end}_{name}"
        for kind in kinds
        for end in ("min", "max")
        for name in ("rgb" if kind is None else [kind + axis for axis in AXES])
    ]
    words = ["ply", "format binary_little_endian 1.0", f"element chunk {-(-len(splats) // 256)}"]
    words += [f"property float {name}" for name in names]
    words += [f"element vertex {len(splats)}"]
    words += [f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")]
    rest = splats.sh.transpose(0, 2, 1).reshape(len(splats), -1)
    if splats.degree:
        words += [f"element sh {len(splats)}", *(f"property uchar f_rest_{k}" for k in range(rest.shape[1]))]
    levels = bytes(_byte(math.floor((value / 8 + 0.5) * 256)) for value in rest.ravel())
    body = struct.pack(f"<{len(chunks)}f", *chunks) + struct.pack(f"<{len(vertices)}I", *vertices)
    return "\n".join([*words, "end_header\n"]).encode() + body + levels


def _byte(value: float) -> int:
    return min(255, max(0, round(float(value))))


def _packed(fractions: list[float], bits: tuple[int, ...]) -> int:
    word = 0
    for fraction, width in zip(fractions, bits, strict=True):
        word = word << width | round(min(1.0, max(0.0, float(fraction))) * (2**width - 1))
    return word


def _smallest_three(q: np.ndarray) -> tuple[int, list[float]]:
    """Returns the index of the largest component, and the others with its sign made positive."""
    largest = int(np.argmax(np.abs(q)))
    sign = 1 if q[largest] >= 0 else -1
    return largest, [sign * float(value) for k, value in enumerate(q) if k != largest]


def _rotation_word(wxyz: np.ndarray) -> int:
    largest, others = _smallest_three(wxyz)
    return largest << 30 | _packed([value / math.sqrt(2) + 0.5 for value in others], (10, 10, 10))


def _rotation(wxyz: np.ndarray, version: int) -> bytes:
    if version == 2:
        sign = 1 if wxyz[0] >= 0 else -1
        return bytes(_byte((sign * value + 1) * 127.5) for value in wxyz[1:])
    largest, others = _smallest_three(wxyz[[1, 2, 3, 0]])
    word = largest
    for value in others:
        word = word << 10 | (512 if value < 0 else 0) | round(abs(value) * math.sqrt(2) * 511)
    return struct.pack("<I", word)
